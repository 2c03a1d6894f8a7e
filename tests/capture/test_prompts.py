"""Prompts from files: what is kept, in which order, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.capture.prompts import choose_prompts, collect_prompts, read_prompts, sample_table
from probe_lab.config import Prompts, load_experiment
from probe_lab.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs" / "prompts.md"
COCO = [
    {"id": 5, "image_id": 20, "caption": "a dog on a sofa"},
    {"id": 6, "image_id": 10, "caption": "two cats"},
    {"id": 7, "image_id": 20, "caption": "a brown dog"},
    {"id": 8, "image_id": 10, "caption": "two cats "},
]
Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def of(path: Path, **keys: object) -> Prompts:
    return Prompts(source="file", path=str(path), **keys)  # type: ignore[arg-type]


# Few letters and short words, so that repeated, empty and almost equal captions are common.
captions_lists = st.lists(st.text("ab \t\n\r\x0b\u2028\u3000", max_size=4), max_size=30)


@given(captions_lists, st.integers(1, 12))
def test_prompts_are_distinct_filled_in_order_and_counted(captions: list[str], count: int) -> None:
    chosen = choose_prompts(captions, count)
    words = [caption.split() for caption in captions]
    expected = [" ".join(w) for i, w in enumerate(words) if w and w not in words[:i]]
    assert list(chosen.prompts) == expected[:count]
    assert chosen.empty == words.count([])
    assert len(chosen.prompts) + chosen.empty + chosen.duplicates + chosen.left_out == len(captions)
    assert chosen.left_out == max(0, len(expected) - count)


@given(captions_lists, st.randoms(), st.integers(0, 3))
def test_a_draw_depends_on_the_captions_and_the_seed_alone(captions: list[str], random: object, seed: int) -> None:
    whole = choose_prompts(captions, 100, shuffle=seed)
    assert sorted(whole.prompts) == sorted(choose_prompts(captions, 100).prompts)
    for count in (1, 3):  # a larger count adds to a smaller one
        assert choose_prompts(captions, count, shuffle=seed).prompts == whole.prompts[:count]
    random.shuffle(captions)  # type: ignore[attr-defined]
    assert choose_prompts(captions, 100, shuffle=seed).prompts == whole.prompts


def test_a_draw_is_not_the_beginning_of_the_source() -> None:
    captions = [f"caption {i}" for i in range(1000)]
    drawn = [set(choose_prompts(captions, 100, shuffle=seed).prompts) for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    for prompts in drawn:
        assert 25 < sum(int(prompt.split()[1]) < 500 for prompt in prompts) < 75


def test_the_note_says_what_was_dropped_and_what_is_missing() -> None:
    assert choose_prompts(["a", "b"], 2).note(2) == ""
    assert choose_prompts(["a", "b", "c"], 2).note(2) == ""
    assert choose_prompts(["a", "", "a", "b"], 3).note(3) == (
        "prompts: 2 kept, dropped 1 empty and 1 duplicate, the source has no more (prompts.count=3)"
    )
    assert choose_prompts(["a", "a", "b"], 1).note(1) == "prompts: 1 kept, dropped 1 duplicate, 1 more left out"


def test_a_text_file_has_one_prompt_per_line(write: Write) -> None:
    path = write("p.txt", "\ufeffa  red\tcircle\r\n\r\n a blue square \na red circle")
    assert read_prompts(of(path), 0) == ["a red circle", "a blue square"]
    assert read_prompts(of(path, count=1), 0) == ["a red circle"]
    chosen = collect_prompts(of(path), 0)
    assert (chosen.empty, chosen.duplicates, chosen.left_out) == (1, 1, 0)


def test_tables_give_one_column(write: Write) -> None:
    csv = write("p.CSV", '\ufeffid,prompt\n1,"a cat, a dog"\n2,"says ""hi""\nloudly"\n\n3,\n4,zebra\n')
    assert read_prompts(of(csv), 0) == ["a cat, a dog", 'says "hi" loudly', "zebra"]
    assert collect_prompts(of(csv), 0).empty == 2
    tsv = write("p.tsv", "caption\tn\na cat, a dog\t1\n")
    assert read_prompts(of(tsv, column="caption"), 0) == ["a cat, a dog"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_parquet_column_may_be_stored_as_any_text(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["b", None, "a", "b"]).cast(kind)
    pq.write_table(pa.table({"n": [1, 2, 3, 4], "prompt": column}), tmp_path / "p.parquet", row_group_size=2)
    chosen = collect_prompts(of(tmp_path / "p.parquet"), 0)
    assert (chosen.prompts, chosen.empty, chosen.duplicates) == (("b", "a"), 1, 1)


def test_lists_in_a_parquet_column_are_the_captions_of_an_image(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": [["a", "b"], [], None, ["c", None]]}), path)
    assert read_prompts(of(path), 0) == ["a", "c"]
    assert read_prompts(of(path, per_image="all"), 0) == ["a", "b", "c"]


def test_coco_gives_one_caption_per_image_or_all(write: Write) -> None:
    path = write("captions_val2014.json", json.dumps({"info": {}, "annotations": COCO}))
    assert read_prompts(of(path), 0) == ["a dog on a sofa", "two cats"]
    whole = collect_prompts(of(path, per_image="all"), 0)
    assert whole.prompts == ("a dog on a sofa", "two cats", "a brown dog")
    assert whole.duplicates == 1


def test_the_experiments_seed_draws(write: Write) -> None:
    path = write("p.txt", "\n".join(map(str, range(50))))
    overrides = ["prompts.source=file", f"prompts.path={path}", "prompts.shuffle=true", "prompts.count=10"]
    tables = [sample_table(load_experiment("smoke", [*overrides, f"seed={seed}"])) for seed in (1, 1, 2)]
    assert tables[0].equals(tables[1])
    assert set(tables[0]["prompt"]) != set(tables[2]["prompt"])


def parquet(table: dict[str, object]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "\n  \n", "holds no prompt: write one per line"),
        ("p.txt", "", "holds no prompt"),
        ("p.txt", "a caf\xe9".encode("latin-1"), r"cannot be read \(it is not UTF-8\)"),
        ("p.lst", "a", r"has the suffix '.lst', which tells no format: name a file that ends in .txt, .csv"),
        ("p.csv", "", r"column 'prompt' is not in .*\(allowed: none\)"),
        ("p.csv", "id,promt\n1,a\n", r"column 'prompt' is not in .*did you mean 'promt'\? \(allowed: id, promt\)"),
        ("p.csv", "id,prompt\n1,a\n2,a cat, a dog\n", "has 3 cells at line 3 and 2 in its header: put a cell that"),
        ("p.csv", 'prompt\n"a\nb\n', "is broken at line 3 "),
        ("p.csv", 'prompt\n"a" b\n', "is broken at line 2 "),
        ("p.csv", "prompt\n", "holds no prompt"),
        ("p.csv", b"prompt\n\xff\n", "not UTF-8"),
        ("p.parquet", b"PAR1 and no more", "is a broken parquet file"),
        ("p.parquet", parquet({"caption": ["a"]}), r"column 'prompt' is not in .*\(allowed: caption\)"),
        ("p.parquet", parquet({"prompt": [1]}), "column 'prompt' of .* holds int64: name a column of text"),
        ("p.parquet", parquet({"prompt": [[1]]}), "holds list<.*int64>: name a column of text"),
        ("p.parquet", parquet({"prompt": pa.array([], pa.string())}), "holds no prompt"),
        ("p.json", "{", "is not valid JSON"),
        ("p.json", "[" * 100_000, "is not valid JSON"),
        ("p.json", b'"\xff"', "not UTF-8"),
        ("p.json", '["a"]', "has no list 'annotations'"),
        ("p.json", '{"annotations": {}}', "has no list 'annotations'"),
        ("p.json", '{"annotations": []}', "holds no prompt"),
        ("p.json", '{"annotations": [{"image_id": 1, "caption": "a"}, {"image_id": 1}]}', "annotation 1 .* 'caption'"),
        ("p.json", '{"annotations": [{"caption": "a"}]}', "annotation 0 .* no valid 'image_id'"),
        ("p.json", '{"annotations": [3]}', "annotation 0 .* no valid 'caption'"),
        ("p.json", r'{"annotations": [{"image_id": 1, "caption": "a \ud83d"}]}', "annotation 0 .* no valid 'caption'"),
    ],
)
def test_bad_files_are_refused_in_one_line(write: Write, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_prompts(of(write(name, content)), 0)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet", ".json"])
def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\)"):
        read_prompts(of(path), 0)
    path.mkdir()
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        read_prompts(of(path), 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompts.source=hub"], "prompts.source=hub needs the id of a dataset"),
        (["prompts.path=captions.csv"], "'captions.csv' and prompts.source=shapes reads none"),
        (["prompts.per_image=second"], "prompts.per_image"),
        (["prompts.source=csv"], "prompts.source"),
    ],
)
def test_keys_that_do_not_fit_are_refused_before_anything_is_read(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("smoke", overrides)


def test_the_examples_of_the_docs_read_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ``yaml`` block with a file reads the block before it, and gives the prompts of the one after it."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    read = 0
    for before, (kind, text), after in zip(blocks, blocks[1:], blocks[2:], strict=False):
        if kind != "yaml" or "source: file" not in text:
            continue
        (tmp_path / "example.yaml").write_text("backbone: tiny-sd\n" + text)
        prompts = load_experiment(tmp_path / "example.yaml").prompts
        Path(prompts.path).write_text(before[1])
        assert read_prompts(prompts, 0) == after[1].splitlines()
        read += 1
    assert read == 3
