"""Random conversations and comparisons, written in every known layout and every format."""

import csv
import gzip
import io
import json
import logging
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cai.data.prompts.readers import reader_of
from cai.settings import SourceSettings

# Words with all that formats and layouts treat as special.
WORDS = [
    *("bread", "Häuser", "如何", "🙂", "a,b", 'say "hi"', "x;y", "{curly}", "[list]", "'s"),
    *("line\nbreak", "para\n\ngraph", "tab\tbed", "\u2028", "# no", "1", "null", "NaN", "- dash"),
]
SEEDS = range(6)


def text(rng):
    return " ".join(["So", *rng.choices(WORDS, k=rng.randint(1, 5)), str(rng.random())])


def conversation(rng, system, turns):
    """Return messages that end with the user's turn."""
    first = [("system", text(rng))] if system else []
    return first + [(("user", "assistant")[n % 2], text(rng)) for n in range(2 * turns - 1)]


def said(pairs, role="role", content="content", names=None):
    names = names or {}
    return [{role: names.get(r, r), content: t} for r, t in pairs]


def parts(pairs):
    return [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in pairs]


def sharegpt(pairs):
    return said(pairs, "from", "value", {"user": "human", "assistant": "gpt"})


def history(pairs):
    texts = [t for r, t in pairs if r != "system"]
    return [[q, a] for q, a in zip(texts[:-1:2], texts[1::2], strict=True)]


def of_system(pairs):
    return pairs[0][1] if pairs[0][0] == "system" else ""


def transcript(pairs):
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return "".join(f"\n\n{names[r]}: {t}" for r, t in pairs)


def unsystem(pairs):
    return [pair for pair in pairs if pair[0] != "system"]


# Layout to how a conversation and an answer are written in it.
CONVERSATIONS = {
    "messages": lambda c, a: {"messages": said([*c, ("assistant", a)])},
    "messages as text": lambda c, _: {"messages": json.dumps(said(c))},
    "messages as Python text": lambda c, _: {"messages": repr(said(c))},
    "parts": lambda c, _: {"messages": parts(c)},
    "prompt of messages": lambda c, a: {"prompt": said(c), "response": a},
    "ShareGPT": lambda c, a: {"conversations": sharegpt([*c, ("assistant", a)])},
    "ShareGPT with system": lambda c, a: {
        "system": of_system(c),
        "conversations": sharegpt([*unsystem(c), ("assistant", a)]),
        "tools": "[]",
    },
    "Alpaca": lambda c, a: {
        "instruction": c[-1][1],
        "input": "",
        "output": a,
        "system": of_system(c),
        "history": history(c),
    },
    "Alpaca, history as text": lambda c, a: {
        "instruction": c[-1][1],
        "output": a,
        "system_prompt": of_system(c),
        "history": json.dumps(history(c)),
    },
    "Orca": lambda c, a: {
        "system_prompt": of_system(c),
        "history": history(c),
        "question": c[-1][1],
        "response": a,
    },
    "context of messages": lambda c, a: {
        "system": of_system(c),
        "context": said(unsystem(c)[:-1]),
        "prompt": c[-1][1],
        "response": a,
    },
    "hh-rlhf": lambda c, a: {
        "chosen": transcript([*c, ("assistant", a)]),
        "rejected": transcript([*c, ("assistant", "No.")]),
    },
}


def scores(better):
    return {"score_chosen": 8.0, "score_rejected": 2.5} if better else {}


COMPARISONS = {
    "hh-rlhf": lambda c, g, b: {
        "chosen": transcript([*c, ("assistant", g)]),
        "rejected": transcript([*c, ("assistant", b)]),
    },
    "UltraFeedback, binarized": lambda c, g, b: {
        "prompt": c[-1][1],
        "chosen": said([*c, ("assistant", g)]),
        "rejected": said([*c, ("assistant", b)]),
        "messages": said([*c, ("assistant", g)]),
        **scores(True),
    },
    "conversational, prompt apart": lambda c, g, b: {
        "prompt": said(c),
        "chosen": said([("assistant", g)]),
        "rejected": said([("assistant", b)]),
    },
    "LLaMA-Factory Alpaca": lambda c, g, b: {
        "instruction": c[-1][1],
        "input": "",
        "chosen": g,
        "rejected": b,
        "system": of_system(c),
        "history": history(c),
    },
    "LLaMA-Factory ShareGPT": lambda c, g, b: {
        "conversations": sharegpt(c),
        "chosen": sharegpt([("assistant", g)])[0],
        "rejected": sharegpt([("assistant", b)])[0],
    },
    "Orca": lambda c, g, b: {
        "system": of_system(c),
        "history": history(c),
        "question": c[-1][1],
        "chosen": g,
        "rejected": b,
    },
    "OpenAI": lambda c, g, b: {
        "input": {"messages": said(c)},
        "preferred_output": said([("assistant", g)]),
        "non_preferred_output": said([("assistant", b)]),
    },
    "UltraFeedback": lambda c, g, b: {
        "prompt": said(c),
        "completions": [
            {"response": b, "overall_score": 3.0, "model": "x"},
            {"response": g, "overall_score": 7.5, "model": "y"},
        ],
    },
    "Arena": lambda c, g, b: {
        "model_a": "x",
        "model_b": "y",
        "winner": "model_b",
        "conversation_a": said([*c, ("assistant", b)]),
        "conversation_b": said([*c, ("assistant", g)]),
    },
    "HelpSteer3": lambda c, g, b: {
        "context": said(c),
        "response1": g,
        "response2": b,
        "overall_preference": -2,
    },
    "PKU": lambda c, g, b: {
        "prompt": said(c),
        "response_0": b,
        "response_1": g,
        "better_response_id": 1,
    },
    "LLMBar": lambda c, g, b: {"input": said(c), "output_1": b, "output_2": g, "label": 2},
    "PandaLM": lambda c, g, b: {
        "instruction": said(c),
        "response1": g,
        "response2": b,
        "annotator1": 1,
        "annotator2": 1,
    },
    "two outputs": lambda c, g, b: {"instruction": said(c), "output": [g, b]},
}


def cells(rows):
    """Return tables for formats that hold text alone: whatever is no text is JSON."""
    rows = [{"id": str(n), **row} for n, row in enumerate(rows)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, [
        [v if isinstance(v, str) else json.dumps(v) for v in (row.get(n, "") for n in names)]
        for row in rows
    ]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path, rows):
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_wrapped(path, rows):
    path.write_text(json.dumps({"version": "1", "data": rows}), encoding="utf-8")


def write_table(delimiter, encoding):
    def write(path, rows):
        names, lines = cells(rows)
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(names)
        writer.writerows(lines)
        path.write_bytes(file.getvalue().encode(encoding))

    return write


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_gzipped(path, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))


FORMATS = {
    "a.jsonl": write_jsonl,
    "a.json": write_json,
    "b.json": write_wrapped,
    "c.json": write_jsonl,
    "a.csv": write_table(",", "utf-8"),
    "b.csv": write_table(";", "utf-8-sig"),
    "c.csv": write_table(",", "utf-16"),
    "a.tsv": write_table("\t", "utf-8"),
    "a.parquet": write_parquet,
    "a.jsonl.gz": write_gzipped,
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("layout", CONVERSATIONS)
def test_the_same_conversations_come_back(tmp_path, caplog, name, layout):
    for seed in SEEDS:
        rng = random.Random(f"{seed} {layout} {name}")
        system = rng.random() < 0.5
        asked = [conversation(rng, system, rng.randint(1, 3)) for _ in range(rng.randint(2, 6))]
        rows = [CONVERSATIONS[layout](c, text(rng)) for c in asked]
        FORMATS[name](tmp_path / name, rows)
        with caplog.at_level(logging.WARNING):
            found = reader_of(SourceSettings(path=name), tmp_path).prompts("helpful", seed=0)
        assert [[(m.role, m.content) for m in row.messages] for row in found if row] == asked
        (line,) = [r.getMessage() for r in caplog.records if "read as" in r.getMessage()]
        assert f"{len(rows)} rows" in line
        assert all(f"`{column}`" in line for column in rows[0])
        caplog.clear()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("layout", COMPARISONS)
def test_the_same_comparisons_come_back(tmp_path, name, layout):
    for seed in SEEDS:
        rng = random.Random(f"{seed} {layout} {name}")
        asked = [conversation(rng, seed % 2, rng.randint(1, 3)) for _ in range(rng.randint(2, 6))]
        judged = [(c, f"good {text(rng)}", f"bad {text(rng)}") for c in asked]
        FORMATS[name](tmp_path / name, [COMPARISONS[layout](*row) for row in judged])
        reader = reader_of(SourceSettings(path=name), tmp_path)
        found = reader.comparisons("helpfulness", seed=0)
        assert [row.error for row in found] == [None] * len(judged)
        back = [
            (
                [(m.role, m.content) for m in row.messages],
                row.responses[row.label == 0.0],
                row.responses[row.label == 1.0],
            )
            for row in found
        ]
        assert back == judged
