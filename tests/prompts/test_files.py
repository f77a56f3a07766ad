"""Files to records, in every format, and what is said of broken ones."""

import bz2
import gzip
import json
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cai.data.prompts.files import find_file, read_file
from cai.data.prompts.readers import read_records, reader_of
from cai.errors import CaiError
from cai.settings import SourceSettings

ROWS = [{"prompt": "One,\n“two”"}, {"prompt": "Three\u2028four"}]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def prompts(path, file_format="auto"):
    return [record.get("prompt") for record in read_file(path, file_format)]


def jsonl(rows=ROWS, end="\n"):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + end


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", jsonl()),
        ("a.jsonl", jsonl(end="")),
        ("a.jsonl", "\ufeff" + jsonl().replace("\n", "\r\n\r\n")),
        ("a.ndjson", jsonl()),
        ("a.json", jsonl()),
        ("a.data", jsonl()),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a", json.dumps([row["prompt"] for row in ROWS])),
        ("a.csv", 'id,prompt\r\n1,"One,\n“two”"\r\n2,Three\u2028four'),
        ("a.csv", '\ufeffprompt\n"One,\n“two”"\nThree\u2028four\n'),
        ("a.table", 'id,Prompt\n1,"One,\n“two”"\n2,Three\u2028four\n'),
        ("a.jsonl.gz", gzip.compress(jsonl().encode(), mtime=0)),
        ("a.tsv", 'id\tprompt\r\n1\t"One,\n“two”"\r\n2\tThree\u2028four'),
        ("a.tab", 'prompt\tid\n"One,\n“two”"\t1\nThree\u2028four\t2\n'),
        ("a.csv", 'prompt;id\n"One,\n“two”";1\nThree\u2028four;2\n'),
        ("a.csv", 'prompt,id\r\n"One,\n“two”",1\r\nThree\u2028four,2'.encode("utf-16")),
        ("a.jsonl", jsonl().encode("utf-16")),
        ("a.jsonl", ("\ufeff" + jsonl()).encode("utf-32-be")),
        ("a.jsonl", json.dumps(ROWS)),
        ("a.jsonl", json.dumps(ROWS, indent=1)),
        ("a.csv.gz", gzip.compress('prompt,x\n"One,\n“two”",\nThree\u2028four,'.encode(), mtime=0)),
    ],
)
def test_every_format_gives_the_same_prompts(tmp_path, name, content):
    assert prompts(written(tmp_path / name, content)) == [row["prompt"] for row in ROWS]


def test_parquet_by_extension_by_content_and_gzipped(tmp_path):
    path = tmp_path / "a.parquet"
    messages = [[{"role": "user", "content": "Hi"}]]
    pq.write_table(pa.table({"messages": messages, "n": [1]}), path)
    shutil.copy(path, tmp_path / "plain")
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
    for name in ("a.parquet", "plain", "b.parquet.gz"):
        assert [r.get("messages") for r in read_file(tmp_path / name)] == messages


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "x", "tags": ["a"]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
        {"instruction": "x", "history": [["a", "b"]]},
        {"prompt": "x", "completions": [{"response": "a", "overall_score": 1}]},
    ],
)
def test_an_object_is_one_row(tmp_path, row):
    (record,) = read_file(written(tmp_path / "a.json", json.dumps(row, indent=1)))
    assert record.fields == row


def test_text_has_one_prompt_a_line_whatever_ends_it(tmp_path):
    path = written(tmp_path / "a.txt", "One \r\n\r\n  \nTwo: a, b\nThree")
    assert [prompt.strip() for prompt in prompts(path)] == ["One", "Two: a, b", "Three"]
    assert [record.where for record in read_file(path)][-1] == f"{path}:5"


def test_a_csv_row_is_located_by_the_line_it_starts_on(tmp_path):
    path = written(tmp_path / "a.csv", 'prompt\n"a\nb"\nc\n')
    assert [record.where for record in read_file(path)] == [f"{path}:2", f"{path}:4"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"prompt": "x"}\n\n{"prompt": \n', r"a\.jsonl:3 is not valid JSON"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1 is not valid JSON"),
        ("a.json", '[\n{"prompt": "x"},\n]', r"a\.json:3 is not valid JSON"),
        ("a.json", '{"a": [], "b": []}', "exactly one list"),
        ("a.json", '{"prompt": ["a", "b"], "id": [1, 2]}', "holds columns, not rows"),
        ("a.json", '{"prompt": {"0": "a"}, "id": {"0": 1}}', "holds columns, not rows"),
        ("a.json", "3", "neither a JSON list nor an object"),
        ("a.jsonl", '["a", "b"]\n', "one line with a list of texts"),
        ("a.jsonl", "prompt,id\na,1\n", r"ends with `\.jsonl`, but its content looks like CSV"),
        ("a.csv", jsonl(), r"ends with `\.csv`, but its content looks like JSON Lines"),
        ("a.txt", jsonl(), r"looks like JSON Lines.*`text` to read it as it is named"),
        ("a.txt", "id\tprompt\n1\tx\n", "looks like TSV"),
        ("a.tsv", "id\tprompt\n1\n", r"a\.tsv:2.*fewer cells than the header has \(1, not 2\)"),
        ("a.csv", "prompt,b,b\nx,y,z\n", "the header has `b` twice"),
        ("a.csv", "prompt,b\nx,y\nx\n", r"a\.csv:3 is not valid CSV: fewer cells"),
        ("a.yaml", "- prompt: x\n", r"ending `\.yaml`.*no known format.*`format`"),
        ("a.md", "# Prompts\n\n- One\n", r"ending `\.md`"),
        ("a", "some words\n", "has no ending"),
        ("a.log", "some words, more\n", r"ending `\.log`"),
        ("a.xlsx", b"PK\x03\x04rest", "a zip archive or an Excel file"),
        ("a.jsonl.xz", b"\xfd7zXZ\x00rest", "compressed with xz.*unxz"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfdrest", "compressed with zstd"),
        ("a.jsonl.bz2", bz2.compress(b"x"), "compressed with bzip2"),
        ("a.arrow", b"ARROW1\0\0rest", "an Arrow file"),
        ("a.arrow", b"\xff\xff\xff\xff\x10\0", "an Arrow stream"),
        ("a.jsonl", pickle.dumps([1]), "a Python pickle"),
        ("a.db", b"SQLite format 3\x00rest", "a SQLite database"),
        ("a.jsonl.gz", gzip.compress(b"\x28\xb5\x2f\xfdrest", mtime=0), "compressed with zstd"),
        ("a.tgz", gzip.compress(b"a" * 257 + b"ustar" + b"\0" * 250, mtime=0), "a tar archive"),
        ("a.csv", "prompt\nx\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("a.csv", "\ufeffprompt\nx\n".encode("utf-16-le")[:-1], "UTF-16, but is damaged"),
        ("a.json", "[]", "holds no rows"),
        ("a.csv", "prompt,b\n", "holds no rows"),
        ("a.csv", "prompt,b\nx,y\nx,y,z\n", r"a\.csv:3 is not valid CSV: more cells"),
        ("a.csv", 'prompt,b\nx,y\nx,"y\n', r"a\.csv:3 is not valid CSV"),
        ("a.txt", "fine\ncaf\xe9\n".encode("latin1"), r"a\.txt:2 is not UTF-8.*iconv"),
        ("a.parquet", "PAR1 but no more", "no readable parquet file"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", " \n\n", "is empty"),
        ("a.jsonl.gz", "", "is empty"),
        ("a.jsonl.gz", '{"prompt": "x"}', "is not gzipped"),
        ("a.jsonl.gz", gzip.compress(b"x" * 1000, mtime=0)[:-12], "is damaged"),
        (
            "a.jsonl.gz",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "git lfs pull",
        ),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_a_broken_file_is_named_with_its_fix(tmp_path, name, content, said):
    with pytest.raises(CaiError, match=said):
        read_file(written(tmp_path / name, content))


def test_the_named_format_wins_over_the_extension(tmp_path):
    path = written(tmp_path / "a.txt", jsonl())
    assert prompts(path, "jsonl") == [row["prompt"] for row in ROWS]
    with pytest.raises(CaiError, match="format: jsonl"):
        read_file(path, "json")


def test_paths_are_relative_to_the_pipeline_file_then_to_the_current_folder(tmp_path, monkeypatch):
    base, here = tmp_path / "base", tmp_path / "here"
    base.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    written(here / "a.txt", "here")
    assert prompts(find_file("a.txt", base)) == ["here"]
    written(base / "a.txt", "base")
    assert prompts(find_file("a.txt", base)) == ["base"]
    with pytest.raises(CaiError, match=r"b\.txt does not exist"):
        find_file("b.txt", base)
    with pytest.raises(CaiError, match="is a directory"):
        find_file("here", tmp_path)


def test_a_fingerprint_follows_the_content(tmp_path):
    source = SourceSettings(path="a.txt")
    written(tmp_path / "a.txt", "one")
    reader = reader_of(source, tmp_path)
    before = reader.fingerprint("helpful")
    assert reader.fingerprint("helpful") == before
    written(tmp_path / "a.txt", "two")
    assert reader.fingerprint("helpful") != before


def test_hub_data_sets_are_loaded_by_name_configuration_and_split(monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, configuration, *, split):
        asked.append((name, configuration, split))
        return [{"prompt": "x"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for path in ("hub:someone/things", "hub:someone/things/small"):
        records = reader_of(SourceSettings(path=path, split="test"), Path()).records()
        assert [record.get("prompt") for record in records] == ["x"]
    assert asked == [("someone/things", None, "test"), ("someone/things", "small", "test")]


def test_a_hub_data_set_out_of_reach_is_said_plainly():
    with pytest.raises(CaiError, match=r"someone/nothing-here.*cannot be loaded.*network"):
        read_records("hub:someone/nothing-here")
    with pytest.raises(CaiError, match="hub:owner/name"):
        read_records("hub:nothing")
