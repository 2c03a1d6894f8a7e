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

from probe_lab.config import Experiment, Prompts, load_experiment
from probe_lab.data.canonical import meaning
from probe_lab.errors import ConfigError
from probe_lab.generation.prompts import choose_prompts, collect_prompts, read_prompts, sample_seed, sample_table

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


def parquet(table: dict[str, object] | pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), sink)
    return bytes(sink.getvalue())


TWICE = parquet(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["prompt", "prompt"]))


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
        ("p.json", "{}", "has no list 'annotations'"),
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
    assert read == 6


GENEVAL = '{"tag": "counting", "prompt": "a photo of two cups"}\n\n{"prompt": "a red cup"}\n'
KARPATHY = {
    "dataset": "coco",
    "images": [
        {"cocoid": 9, "split": "val", "sentences": [{"raw": "a cat"}, {"raw": "a grey cat"}]},
        {"cocoid": 3, "split": "test", "sentences": [{"raw": "a dog"}]},
    ],
}


@pytest.mark.parametrize(
    ("name", "content", "keys", "prompts"),
    [
        ("e.jsonl", GENEVAL, {}, ["a photo of two cups", "a red cup"]),
        ("e.ndjson", '"a cat"\r\n"a\\ndog"\r\n', {}, ["a cat", "a dog"]),
        ("e.jsonl", '{"meta": {"text": "a cat"}}\n', {"field": "meta.text"}, ["a cat"]),
        ("anime.json", '["a fox", "", "a hen"]', {}, ["a fox", "a hen"]),
        ("test.json", '[{"prompt": "a fox", "image_path": ["a.jpg"]}]', {}, ["a fox"]),
        ("d.json", '[{"caption": "a fox"}, {"caption": null}]', {"column": "caption"}, ["a fox"]),
        ("dataset_coco.json", json.dumps(KARPATHY), {}, ["a cat", "a dog"]),
        ("dataset_coco.json", json.dumps(KARPATHY), {"per_image": "all"}, ["a cat", "a grey cat", "a dog"]),
        ("dataset_coco.json", json.dumps(KARPATHY), {"split": "test"}, ["a dog"]),
        ("f.json", json.dumps(KARPATHY), {"field": "images.sentences.raw", "per_image": "all"},
         ["a cat", "a grey cat", "a dog"]),
        ("f.json", '{"data": {"one": ["a", "b"]}}', {"field": "data.one"}, ["a", "b"]),
        ("drawbench.csv", 'Prompts,Category\n"A red car, parked.",Colors\n', {"column": "Prompts"},
         ["A red car, parked."]),
        ("color_val.txt", "a green bench and a red car\r\nThe cat sat.\r\n", {},
         ["a green bench and a red car", "The cat sat."]),
        ("p.tsv", 'Prompt\tNote\n"O P E N" on a door\t"\nsaid ""so""\tx\n', {"column": "Prompt"},
         ['"O P E N" on a door', 'said ""so""']),
        ("p.tsv", '"prompt"\t"n"\n"a ""b"""\t"1"\n', {}, ['a "b"']),
        ("p.tsv", 'prompt\tn\n"a ""b"""\t1\n', {"quoting": "csv"}, ['a "b"']),
        ("p.tsv", 'prompt\tn\n"a ""b"""\t1\n', {"quoting": "none"}, ['"a ""b"""']),
        ("p.csv", 'prompt,n\n"a,1\n', {"quoting": "none"}, ['"a']),
    ],
)  # fmt: skip
def test_the_files_of_benchmarks_are_read(
    write: Write, name: str, content: str, keys: dict[str, object], prompts: list[str]
) -> None:
    assert read_prompts(of(write(name, content), **keys), 0) == prompts


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl", "p.json"])
def test_a_byte_order_mark_says_how_a_file_is_encoded(write: Write, name: str, encoding: str) -> None:
    content = {
        "p.txt": "ein Café\n",
        "p.csv": "prompt\nein Café\n",
        "p.jsonl": '"ein Café"\n',
        "p.json": '["ein Café"]',
    }
    assert read_prompts(of(write(name, content[name].encode(encoding))), 0) == ["ein Café"]


@pytest.mark.parametrize(
    ("name", "content", "keys", "message"),
    [
        ("p.txt", "a cat\n".encode("utf-16-le"), {}, "NUL character in line 1, as UTF-16 without a byte order mark"),
        ("p.csv", "prompt\na cat\n".encode("utf-16-be"), {}, "NUL character in line 1"),
        ("p.txt", "猫犬\n".encode("utf-16-be"), {}, "not UTF-8|NUL"),
        ("p.txt", b"a cat\na d\0g\n", {}, "NUL character in line 2"),
        ("p.json", r'["a cat", "a d\u0000g"]', {}, "entry 2 .* has no valid text"),
        ("p.parquet", parquet({"prompt": ["a cat", "a d\0g"]}), {}, r"prompt 2 of the source, 'a d\\x00g', .* NUL"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": 1}\n', {}, r"'prompt' of line 2 .*\(it holds a number"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"promt": "a"}\n', {}, r"line 3 .* no key 'prompt' .*did you mean 'promt'"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', {}, r"not valid JSON \(Expecting value, line 2 column"),
        ("p.jsonl", "[1]\n", {}, "line 1 .* neither a text nor a record"),
        ("p.json", '{"prompt": "a"}\n{"prompt": "b"}\n', {}, "line 2 .*one JSON value per line .jsonl"),
        ("p.json", '[{"prompt": "a"}, 3]', {}, "entry 2 .* neither a text nor a record"),
        ("p.json", '{"images": [{"sentences": ["a"]}]}', {}, "image 0 .* no list 'sentences' with a 'raw'"),
        ("p.json", json.dumps(KARPATHY), {"split": "tset"}, "'tset' is that of no image .*did you mean 'test'"),
        ("p.json", '{"data": [{"txt": "a"}]}', {"field": "data.text"}, "'text', which entry 1 .*did you mean 'txt'"),
        ("p.json", '{"data": [{"n": 1}]}', {"field": "data.n"}, r"entry 1 .*\(it holds a number"),
        ("p.json", '{"data": []}', {}, "no list 'annotations' or 'images': .*prompts.field=data.items.text"),
        ("p.tsv", 'prompt\tn\na\t1\n"a ""b"""\t1\n', {}, "line 3 .*prompts.quoting=csv .* prompts.quoting=none"),
        ("p.tsv", 'prompt\tn\n"a\nb"\t1\n', {}, "has 1 cells at line 2 and 2 in its header: write prompts.quoting=csv"),
        ("p.csv", "prompt,n,prompt\na,1,b\n", {}, "has 2 columns 'prompt': rename all but one"),
        ("p.tsv", "prompt\tprompt\na\tb\n", {}, "has 2 columns 'prompt'"),
        ("p.csv", "prompt,image_id,image_id\na,1,2\n", {}, "has 2 columns 'image_id'"),
        ("p.json", '[{"prompt": "a", "prompt": "b"}]', {}, r"\(the key 'prompt' stands twice in one object\)"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "a", "prompt": "b"}\n', {}, r"'prompt' stands twice .*, line 2\)"),
        ("p.parquet", TWICE, {}, "has 2 columns 'prompt'"),
        ("p.csv", "Prompts,n\na,1\n", {}, "write prompts.column='Prompts'"),
    ],
)
def test_what_a_file_lacks_is_told_with_its_place(
    write: Write, name: str, content: str | bytes, keys: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_prompts(of(write(name, content), **keys), 0)
    assert name in str(caught.value) or "of the source" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_prompt_in_several_spellings_is_one_and_stays_as_written(write: Write) -> None:
    path = write(
        "p.txt", "cafe\u0301 au  lait\ncaf\u00e9 au lait\ncaf\u00e9\u200b au lait \n\u200b\nCaf\u00e9 au lait\n"
    )
    chosen = collect_prompts(of(path), 0)
    assert chosen.prompts == ("cafe\u0301 au lait", "Caf\u00e9 au lait")
    assert (chosen.empty, chosen.duplicates) == (1, 2)
    assert sample_seed("cafe\u0301 au lait", 3, 1) == sample_seed("caf\u00e9 au lait\u200b", 3, 1)
    assert sample_seed("caf\u00e9 au lait", 3, 1) != sample_seed("Caf\u00e9 au lait", 3, 1)


def test_the_captions_of_an_image_keep_its_name(write: Write, tmp_path: Path) -> None:
    coco = of(write("c.json", json.dumps({"annotations": COCO})), per_image="all")
    assert collect_prompts(coco, 0).image_ids == ("20", "10", "20")
    assert collect_prompts(of(write("k.json", json.dumps(KARPATHY))), 0).image_ids == ("9", "3")
    table = write("t.csv", "image_id,prompt\n7,a cat\n7,a dog\n")
    assert collect_prompts(of(table), 0).image_ids == ("7", "7")
    pq.write_table(pa.table({"prompt": [["a", "b"], ["c"]]}), tmp_path / "l.parquet")
    assert collect_prompts(of(tmp_path / "l.parquet", per_image="all"), 0).image_ids == ("a", "a", "")
    overrides = ["prompts.source=file", f"prompts.path={coco.path}", "prompts.per_image=all", "prompts.seeds=2"]
    samples = sample_table(load_experiment("smoke", overrides))
    assert samples["image_id"].tolist() == ["20", "20", "10", "10", "20", "20"]
    assert samples.query("image_id == '20'")["split"].nunique() == 1


def test_prompts_of_others_are_excluded_by_what_they_say(write: Write, tmp_path: Path) -> None:
    path = write("p.txt", "A cat.\na dog\na blue square right of a red circle\na hen\n")
    seen = write("seen.txt", "a cat\na red circle left of a blue square\n")
    chosen = collect_prompts(of(path, exclude=[str(seen)]), 0)
    assert (chosen.prompts, chosen.excluded) == (("a dog", "a hen"), 2)
    assert chosen.note(4) == "prompts: 2 kept, dropped 2 excluded, the source has no more (prompts.count=4)"
    cache = tmp_path / "cache"
    cache.mkdir()
    sample_table(load_experiment("smoke", ["prompts.count=3"])).to_parquet(cache / "samples.parquet")
    first = load_experiment("smoke").prompts
    for exclude in ([str(cache)], ["shapes:0:3"]):
        again = Prompts(count=5, exclude=exclude)
        assert read_prompts(again, 0) == read_prompts(Prompts(count=8), 0)[3:]
    kept = {meaning(prompt) for prompt in read_prompts(Prompts(count=100, exclude=["smoke"]), 0)}
    assert not kept & {meaning(prompt) for prompt in read_prompts(first, 0)}


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ("shapes:zero:3", "write shapes:SEED:COUNT"),
        ("shapes:0", "write shapes:SEED:COUNT"),
        ("smokee", "names 'smokee', which is no file of prompts.*did you mean 'smoke'"),
        ("gone.txt", "'gone.txt' cannot be read"),
        ("{own}", "leads from .* back to itself"),
    ],
)
def test_an_entry_that_excludes_nothing_is_refused(tmp_path: Path, exclude: str, message: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(f"backbone: tiny-sd\nprompts: {{exclude: ['{exclude.format(own=own)}']}}\n")
    with pytest.raises(ConfigError, match=message):
        read_prompts(load_experiment(own).prompts, 0)


def test_an_experiment_that_several_exclude_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    excluded = {"whole": ["left", "right"], "left": ["shared"], "right": ["shared"], "shared": []}
    for name, names in excluded.items():
        entries = [str(tmp_path / f"{entry}.yaml") for entry in names]
        text = f"backbone: tiny-sd\nseed: {len(name)}\nprompts: {{count: 40, exclude: {entries}}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    whole = load_experiment(tmp_path / "whole.yaml")
    read: list[str] = []

    def recorded(name: str) -> Experiment:
        read.append(Path(name).stem)
        return load_experiment(name)

    monkeypatch.setattr("probe_lab.generation.prompts.load_experiment", recorded)
    chosen = read_prompts(whole.prompts, whole.seed)
    assert sorted(read) == ["left", "right", "shared"]
    others = [load_experiment(tmp_path / f"{name}.yaml") for name in ("left", "right")]
    said = {meaning(prompt) for other in others for prompt in read_prompts(other.prompts, other.seed)}
    assert len(chosen) == 40
    assert not said & {meaning(prompt) for prompt in chosen}


def test_experiments_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / f"{name}.yaml").write_text(
            f"backbone: tiny-sd\nprompts: {{exclude: ['{tmp_path / other}.yaml']}}\n"
        )
    with pytest.raises(ConfigError, match=r"leads from .* back to itself"):
        read_prompts(load_experiment(tmp_path / "one.yaml").prompts, 0)
