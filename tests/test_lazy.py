"""What a command imports: nothing heavy before it is needed, and packages give their names whatever came first."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import probe_lab

ROOT = Path(probe_lab.__file__).parent
LAZY = [".".join(("probe_lab", *stub.parent.relative_to(ROOT).parts)) for stub in sorted(ROOT.rglob("__init__.pyi"))]
HEAVY = {
    "accelerate",
    "diffusers",
    "lightning",
    "matplotlib",
    "mlflow",
    "numpy",
    "open_clip",
    "pandas",
    "pyarrow",
    "scipy",
    "torch",
    "torchmetrics",
    "torchvision",
    "transformers",
}
"""Every dependency whose import takes a tenth of a second or more, but those that the command line is made of."""


def imported(code: str) -> set[str]:
    """The names of all modules that a new process has after ``code``."""
    ending = "import json, sys; print(); print(json.dumps(sorted(sys.modules)))"
    script = f"try:\n    {code}\nexcept SystemExit:\n    pass\n{ending}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["sweep", "--help"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    modules = imported(f"import sys; sys.argv[1:] = {arguments}; from probe_lab.cli import main; main()")
    assert "probe_lab.cli" in modules
    assert not HEAVY & modules


def test_completion_imports_nothing_heavy() -> None:
    typed = "from probe_lab.cli import completion; completion.experiments('q'); completion.keys('probe.')"
    assert not HEAVY & imported(typed)
    words = {"_PROBE_LAB_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "probe-lab config probe."}
    code = f"import os; os.environ |= {words}; from probe_lab.cli import app; app(prog_name='probe-lab')"
    modules = imported(code)
    assert "probe_lab.cli.completion" in modules
    assert not HEAVY & modules


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("from probe_lab.config import load_experiment; load_experiment('quickstart')", set()),
        ("from probe_lab.compare import command", {"numpy"}),
        ("import probe_lab.tracking", set()),
        ("import probe_lab.probes.probe", {"numpy", "pandas", "pyarrow", "torch"}),
        ("import probe_lab.report.build", {"matplotlib", "numpy", "pandas", "pyarrow", "scipy", "torch"}),
    ],
)
def test_a_stage_imports_only_what_it_needs(code: str, allowed: set[str]) -> None:
    modules = imported(code)
    assert not HEAVY & modules - allowed
    assert "torch._dynamo" not in modules


@pytest.mark.parametrize("package", LAZY)
def test_every_name_of_a_lazy_package_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("package", LAZY)
def test_no_lazy_name_is_that_of_a_file(package: str) -> None:
    """Whether the name or the file is imported first, the name is the same thing."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    files = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    at_once = {
        alias.asname
        for line in ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert not files & (set(importlib.import_module(package).__all__) - at_once)


def test_a_stub_holds_only_exports() -> None:
    """Editors take only `X as Y` as an export, and what is no import has to be in the package itself."""
    for package in LAZY:
        folder = ROOT.joinpath(*package.split(".")[1:])
        for line in ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8")).body:
            if isinstance(line, ast.ImportFrom):
                assert all(alias.asname for alias in line.names), package
            else:
                assert ast.unparse(line) == "__version__: str"


def test_the_door_offers_what_people_need() -> None:
    stages = {"generate_images", "score_images", "train_probe", "run_sweep", "write_report"}
    assert stages | {"Cache", "Capture", "ProbeSelect", "Tap", "load_experiment"} <= set(probe_lab.__all__)
    for name in probe_lab.__all__:
        assert getattr(probe_lab, name).__doc__, name


def test_a_package_at_the_door_is_the_package_whatever_came_first() -> None:
    first = "from probe_lab import sweep, report; from probe_lab import run_sweep, write_report"
    second = "import probe_lab.sweep.run, probe_lab.report; from probe_lab import sweep, report, run_sweep"
    for code in (first, second):
        check = "assert sweep.__path__ and report.__path__ and sweep.run_sweep is run_sweep"
        assert "probe_lab.sweep.run" in imported(f"{code}; {check}")
