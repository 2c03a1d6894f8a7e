"""Every fenced block of README, docs and model cards runs as it is written, in the order of its page.

Each page has a working folder of its own, in which commands and snippets find what those before them left. Its
``experiments/`` are the shipped ones, cut down to seconds. Where a page asks for `make demo` first, the folder has a
finished quick-start; of the pages that fill the cache of `smoke`, one begins without it. Images have a quarter of their
size where no snippet selects with a pipeline, which draws in its own. What cannot run here is below with the reason.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from omegaconf import OmegaConf
from pages import PAGES, ROOT, Block, blocks_of, inline_commands, words_of
from room import copied, make_room

from probe_lab.cli import app
from probe_lab.config import build_experiment, load_experiment
from probe_lab.evaluators import base
from probe_lab.sweep import read_results

NOT_RUN = {
    "make demo": "installs, then runs all verbs: the folder has what it leaves",
    "make test": "is the suite that this test is of",
    "make setup": "has been run: this process is the environment's",
    "make lint": "looks at the whole repository for a minute",
    "python -m pytest tests/test_layers.py": "is another test of the suite",
    "source .venv/bin/activate": "this process is the environment's",
    "probe-lab sweep quickstart engine.name=ray engine.address=auto": "needs a cluster: tests/engines",
    "pip install 'probe_lab[ray]'": "is installed",
    "ray start --head --port=6379": "needs a cluster: tests/engines",
    "ray start --address=HEAD:6379": "needs a cluster: tests/engines",
    "probe-lab sweep quickstart engine.name=ray engine.address=HEAD:6379 workers=16": "needs a cluster: tests/engines",
    "mlflow ui --backend-store-uri sqlite:///mlflow.db": "serves without an end; its options are looked up",
    "mlflow server --host 0.0.0.0 --port 5000 --backend-store-uri sqlite:///server.db --serve-artifacts "
    "--artifacts-destination ./artifacts": "serves without an end; its options are looked up",
    "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 probe-lab sweep quickstart": "needs that server: tests/tracking",
    "python -m tools.tiny_models.train tiny-sd --steps 6000 --seed 0": "trains for an hour: tests/shapes",
    "python -m tools.tiny_models.train tiny-sd3 --steps 7000 --seed 0": "trains for an hour: tests/shapes",
    "python -m tools.tiny_models.train_clip --steps 3000 --seed 0": "trains for half an hour: tests/shapes",
}
"""Commands that cannot run here, and why. What they name (experiments, options, modules) is looked up all the same."""

LISTINGS = {
    ("docs/cache.md", "data_cache/<name>/"): "a tree of files",
    ("docs/cache.md", "error: the cache data_cache/trial"): "an error that tests/cache/test_cache_mismatch.py asserts",
    ("docs/labels.md", "labels/captions.parquet"): "a tree of files",
    ("docs/judge.md", "judges/<seed>/weights.safetensors"): "a tree of files",
    ("docs/design.md", "pyproject.toml"): "a tree of files",
    ("docs/design.md", "data_cache/<name>/"): "a tree of files",
    ("docs/design.md", "name: quickstart"): "every section with some keys, `[...]` for lists",
}
"""Blocks that are neither commands nor programs, by their page and beginning."""

ELSEWHERE = {
    ("docs/prompts.md", "text json yaml"): "tests/generation/test_prompts.py",
    ("docs/sweeps.md", "text yaml"): "tests/sweep/test_sweep_docs.py",
    ("docs/losses.md", "python"): "tests/training/test_probes_objective.py",
    ("docs/backbones.md", "python"): "tests/backbones/test_backbones_docs.py",
}
"""Blocks that another test runs, for what comes out of them: page and languages."""

WITH_A_PIPELINE = ("docs/design.md",)
"""Pages that show a contract for any `pipe` and `prompts`."""


DEMO = ("generate", "score", "sweep")
FILLS = "probe-lab generate smoke"
FILLS_FROM_NOTHING = "guide.md"
"""Of the pages with this command, the one whose folder has nothing of that cache yet."""


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `make demo` leaves in caches and runs, of pictures as large as those of snippets."""
    return room_after(tmp_path_factory.mktemp("finished"), 64, *(f"probe-lab {verb} quickstart" for verb in DEMO))


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Folders with the cache of `smoke`, each made once, for images of so many pixels a side."""
    return functools.cache(lambda pixels: room_after(tmp_path_factory.mktemp("filled"), pixels, FILLS))


def room_after(folder: Path, pixels: int, *commands: str) -> Path:
    make_room(folder, pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "")
        for command in commands:
            run(command)
    return folder


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's commands are given."""
    # What a page registers is forgotten after it.
    monkeypatch.setattr(base.EVALUATORS, "_entries", dict(base.EVALUATORS._entries))
    page: Path = request.param
    if page.name == "tracking.md":
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    else:  # a database takes ten seconds to make
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    room, pixels = tmp_path / "room", 64 if "ProbeSelect(" in page.read_text(encoding="utf-8") else 32
    if needs_demo(page):
        copied(request.getfixturevalue("finished"), room)
    elif page.name != FILLS_FROM_NOTHING and fills_smoke(page):
        copied(request.getfixturevalue("filled")(pixels), room)
    else:
        make_room(room, pixels)
    if (page.parent / "model.safetensors").exists() or (page.parent / "open_clip_model.safetensors").exists():
        (room / page.parent.name).symlink_to(page.parent)  # a card speaks of the folder that it lies in
    monkeypatch.chdir(room)
    return room


def needs_demo(page: Path) -> bool:
    """Whether the page asks for `make demo` before its first command, or begins with it."""
    blocks = [block for block in blocks_of(page) if block.is_shell or block.language == "python"]
    lines = page.read_text(encoding="utf-8").splitlines()
    return bool(blocks) and "make demo" in "\n".join(lines[: blocks[0].line + 1])


def fills_smoke(page: Path) -> bool:
    return any(FILLS in block.commands for block in blocks_of(page) if block.is_shell)


@pytest.mark.parametrize("folder", PAGES, indirect=True, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_runs_from_top_to_bottom(
    folder: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    page: Path = request.node.callspec.params["folder"]
    names: dict[str, Any] = {"__name__": "__main__"}
    if str(page.relative_to(ROOT)) in WITH_A_PIPELINE:
        from probe_lab.backbones.pipelines import load_pipeline

        smoke = load_experiment("smoke")
        names |= {"pipe": load_pipeline(smoke.backbone, smoke.sampling), "prompts": ["a red circle"]}
    for block in blocks_of(page):
        if is_listing(block):
            continue
        if block.language == "yaml":
            write_experiment(block, folder)
        elif is_tested_elsewhere(block):
            continue
        elif block.is_synopsis:
            for command in block.commands:
                look_up(command.partition("  ")[0])
        elif block.is_shell:
            for command in block.commands:
                look_up(command) if command in NOT_RUN else run(command)
        elif block.language == "python" and (named := re.match(r"# (\S+\.py)\n", block.text)):
            (folder / named[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, block.name, "exec"), names)
        else:
            pytest.fail(f"{block.name} is neither run nor listed: {block.text[:60]!r}")
    require_made(page, names, capsys.readouterr().out)


def require_made(page: Path, names: dict[str, Any], printed: str) -> None:
    """What a page says that its commands and snippets give."""
    match page.relative_to(ROOT).as_posix():
        case "README.md":
            images, size, hours = re.findall(r"# (\d+ \d+) images: (\d+) GB and (\d+) hours", page.read_text())[0]
            assert f"{images.replace(' ', '')} images, tensors of steps 5" in printed
            assert round(float(re.findall(r"total .* ([\d.]+) GB", printed)[-1])) == int(size)
            assert round(float(re.findall(r"GPU-hours, about .* ([\d.]+) ", printed)[-1])) == int(hours)
            assert names["capture"][5, "up_blocks.1.attentions.0", "attention"].shape[0] == 10
            assert names["found"].denoiser_calls == 2 * (5 * 5 + 20)
            assert Path("best.png").exists()
        case "docs/cache.md":
            assert Path("example/shards/00001.json").exists()
        case "docs/extending.md":
            models = {"cnn", "linear", "my_models:means", "my_baselines:contrast"}
            results = read_results(Path("runs/mine"))
            assert set(results["model"]) == models
            assert set(results["loss"]) >= {"listwise", "my_losses:huber"}
            assert set(results["evaluator"]) == {"shapes_reward", "my_rewards:Warmth"}
            assert "contrast of x0" in Path("reports/mine/index.html").read_text()
        case "docs/previews.md":
            assert names["best"].denoiser_calls == 8 * 2 + 1 * 6
            assert Path("data_cache/smoke/previews/2/shapes_reward.parquet").exists()
        case "docs/select.md":
            assert (names["found"].denoiser_calls, names["found"].of) == (2 * (5 * 2 + 1 * 6), 2 * 5 * 8)
            assert "Quality over compute" in Path("reports/smoke/index.html").read_text()
            record = json.loads(Path("selections/smoke/selection.json").read_text())
            assert record["denoiser_calls"] < record["denoiser_calls_of_all"]
        case "docs/tracking.md":
            assert set(names["best"]["tags.step"]) == {"5"}


def is_listing(block: Block) -> bool:
    page = str(block.page.relative_to(ROOT))
    return any(page == listed and block.text.startswith(start) for listed, start in LISTINGS)


def is_tested_elsewhere(block: Block) -> bool:
    page = str(block.page.relative_to(ROOT))
    return any(page == other and block.language in languages.split() for other, languages in ELSEWHERE)


def run(command: str) -> None:
    variables, (program, *arguments) = words_of(command)
    assert program == "probe-lab", f"`{command}` is neither run nor listed"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        assert not app(arguments, standalone_mode=False), command


def look_up(command: str) -> None:
    """Whether there is what a command names."""
    _, (program, *arguments) = words_of(command)
    if program == "probe-lab":
        require_known(arguments)
    elif program == "python":
        assert importlib.util.find_spec(arguments[1]), command
    elif program == "mlflow":
        from mlflow.cli import server

        known = {name for option in server.params for name in option.opts}
        assert {word for word in arguments if word.startswith("--")} <= known
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def write_experiment(block: Block, folder: Path) -> None:
    """Check an experiment, or a part of one, and write it where its first line says: `# flux.yaml`."""
    named = re.match(r"# (\S+\.yaml)\n", block.text)
    if named:
        (folder / named[1]).write_text(block.text, encoding="utf-8")
    if named and "\ndefaults:" in block.text:
        load_experiment(folder / named[1])
        return
    whole = OmegaConf.merge({"name": "page", "backbone": "tiny-sd"}, OmegaConf.create(block.text))
    build_experiment(whole, OmegaConf.create({}), origin=block.name)


VERBS: Any = typer.main.get_command(app)
PLACEHOLDER = re.compile(r"\[?[A-Z]+\]?|X.*|.*….*|\.\.\.")


def require_known(arguments: list[str]) -> None:
    """That a `probe-lab` command names a verb, options of it and an experiment that there is, or an option of all."""
    verb, *rest = arguments
    if verb.startswith("--"):
        assert {verb} <= {name for option in VERBS.params for name in option.opts}, arguments
        return
    verbs = verb.split("|")
    if PLACEHOLDER.fullmatch(verb):  # `probe-lab VERB EXPERIMENT`
        return
    assert set(verbs) <= set(VERBS.commands), arguments
    command = VERBS.commands[verbs[0]]
    if hasattr(command, "commands"):  # `probe-lab cache info`
        assert set(rest[0].split("|") if rest else []) <= set(command.commands), arguments
        return
    end = next((i for i, word in enumerate(rest) if word.endswith("…") or "  " in word), len(rest))
    words = [re.sub(r"^CALLS$", "22", word) for word in rest[:end]]
    options = {name: option for option in command.params for name in option.opts}
    if words and words[-1].startswith("--") and not getattr(options[words[-1]], "is_flag", False):
        words.append("X")  # an option that is named without its value
    if words:
        given = command.make_parser(typer.Context(command, info_name=verbs[0])).parse_args(words)[0]
        experiment = given.get("experiment")
        if isinstance(experiment, str) and not PLACEHOLDER.fullmatch(experiment):
            assert (ROOT / "experiments" / f"{experiment}.yaml").exists() or experiment.endswith(".yaml"), arguments


def test_what_is_listed_is_in_the_documents() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page)]
    commands = {command for block in blocks if block.is_shell for command in block.commands}
    assert [command for command in NOT_RUN if command not in commands] == []
    for listed in LISTINGS:
        assert any(is_listing(block) and block.text.startswith(listed[1]) for block in blocks), listed
    for (page, languages), test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(), test
        for language in languages.split():
            assert any(is_tested_elsewhere(block) and block.language == language for block in blocks), (page, language)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_the_text_are_commands(page: Path) -> None:
    prose = page.read_text(encoding="utf-8")
    for block in blocks_of(page):
        prose = prose.replace(block.text, "")
    for _, *arguments in inline_commands(prose):
        require_known(arguments)


def test_what_is_to_be_changed_is_where_the_page_says() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    places = re.findall(r"^\| .* \| `(\w+)` in `([\w/.]+)` \|$", page, re.MULTILINE)
    assert len(places) == page.partition("## Find a thing")[2].partition("\n## ")[0].count("\n| ") - 1
    for name, path in places:
        names = [target for node in ast.parse((ROOT / path).read_text()).body for target in defined_by(node)]
        assert name in names, path


def defined_by(node: ast.stmt) -> list[str]:
    """Names of a module that a statement makes."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def texts_of(path: Path) -> Iterator[str]:
    """Every text of a module, with X for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_errors_and_help_name_verbs_and_experiments_that_there_are() -> None:
    hints = 0
    for path in (ROOT / "probe_lab").rglob("*.py"):
        for text in texts_of(path):
            for _, *arguments in inline_commands(text):
                require_known(arguments)
                hints += 1
            for example in re.findall(r"Example: probe-lab (.*)", text):
                require_known(words_of(example)[1])
                hints += 1
    assert hints > 60
