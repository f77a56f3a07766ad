"""The method table: how sections become stages, a stage that stands twice, a stage that is new."""

import json
import re
import sys
from pathlib import Path

import pytest
from plain_runs import SMALLEST, run_of
from typer.testing import CliRunner

from cai.cli import app
from cai.errors import CaiError
from cai.pipeline import method
from cai.pipeline.load import load_pipeline, pipeline_settings, read_resolved
from cai.pipeline.runner import run_pipeline
from cai.pipeline.stage import Placed
from cai.settings import SftSettings

HEAD = """\
name: mine
constitution: harmless
models:
  helpful: {path: playground}
prompts: {red_team: "playground:red_team", helpful: "playground:helpful"}
"""
TO_PPO = "revise: {}\nsft: {}\ncompare: {}\npreference: {}\nppo: {}\n"


def placed(tmp_path: Path, text: str) -> dict[str, Placed]:
    path = tmp_path / "pipeline.yaml"
    path.write_text(HEAD + text)
    return {stage.name: stage for stage in load_pipeline(path).stages}


def reads(stage: Placed) -> dict[str, tuple[str, ...]]:
    return {kind: tuple(s.name for s in found) for kind, found in stage.sources.items()}


def test_every_stage_of_the_method_has_a_name_and_an_output_of_its_own():
    names = [stage.name for stage in method.METHOD]
    made = [stage.makes.name for stage in method.METHOD if stage.makes]
    assert len({*names}) == len(names)
    assert len({*made}) == len(made)


def test_sections_run_in_the_methods_order_wherever_they_stand(tmp_path):
    found = placed(tmp_path, "report: {}\nsft: {}\nrevise: {}\n")
    assert list(found) == ["prompts", "revise", "sft", "report"]
    assert found["report"].upstream == ("prompts", "revise", "sft")


@pytest.mark.parametrize(
    ("section", "reads_it"),
    [
        ("ppo: {}", True),
        ("ppo: {samples_per_prompt: 2, reward: {}}", False),
        ("ppo: {samples_per_prompt: 2, reward: {preference_weight: 1}}", True),
        ("sample: {}", True),
        ("sample: {scored_by: playground}", False),
        ("demonstrations: {}", True),
        ("demonstrations: {files: a.jsonl}", False),
        ("kto: {}", True),
        ("kto: {ratings: {path: a.jsonl}}", False),
    ],
)
def test_a_stage_reads_only_what_its_settings_ask_for(tmp_path, section, reads_it):
    found = placed(tmp_path, f"compare: {{}}\npreference: {{}}\n{section}\n")
    stage = found[section.partition(":")[0]]
    assert bool({"comparisons", "preference model"} & {*stage.sources}) == reads_it


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            "ppo: {}",
            r"not `preference:`.*or let the constitution's principles be the only reward "
            r"\(`ppo: \{reward: \{\}, samples_per_prompt: 2\}`\)\.",
        ),
        (
            "more: {stage: ppo, samples_per_prompt: 2, reward: {preference_weight: 1}}",
            r"has `more:` but not `preference:`.*\(`more: \{reward",
        ),
        ("sample: {}", r"not `preference:`.*or set `sample.scored_by` to a grader\."),
        ("demonstrations: {}", r"not `compare:`.*name files with answers \(`demonstrations.files`"),
        ("kto: {}", r"not `compare:`.*or name rated responses \(`kto.ratings`\)\."),
        ("dpo: {}", r"not `compare:`.*or remove `dpo:`\."),
    ],
)
def test_what_a_stage_lacks_is_told_with_what_to_do_instead(tmp_path, section, said):
    with pytest.raises(CaiError, match=said):
        placed(tmp_path, f"{section}\n")


def test_without_fine_tuning_the_helpful_model_takes_its_place(tmp_path):
    found = placed(tmp_path, "compare: {}\npreference: {}\nppo: {}\n")
    assert reads(found["ppo"]) == {
        "prompts": ("prompts",),
        "policy": ("helpful-only",),
        "preference model": ("preference-model",),
    }
    assert found["ppo"].upstream == ("prompts", "preference")


def test_a_stage_stands_twice_and_others_say_which_they_read(tmp_path):
    found = placed(
        tmp_path,
        TO_PPO
        + "second-sft: {stage: sft, from: rl-cai, epochs: 2}\n"
        + "again: {stage: compare, from: second-sft}\n"
        + "judge: {stage: preference, from: [again, second-sft]}\n"
        + "last: {stage: ppo, from: [second-sft, judge]}\n"
        + "evaluate: {}\n",
    )
    assert reads(found["second-sft"])["policy"] == ("rl-cai",)
    assert reads(found["judge"]) == {"comparisons": ("again",), "policy": ("second-sft",)}
    assert reads(found["last"])["preference model"] == ("judge",)
    # Stages of the plain names do not notice.
    assert reads(found["preference"]) == {"comparisons": ("comparisons",), "policy": ("sl-cai",)}
    assert reads(found["ppo"])["policy"] == ("sl-cai",)
    policies = ("helpful-only", "sl-cai", "rl-cai", "second-sft", "last")
    assert reads(found["evaluate"])["policy"] == policies
    order = list(found)
    assert order.index("ppo") < order.index("second-sft") < order.index("again")


def test_from_takes_the_name_of_a_stage_or_of_what_it_makes(tmp_path):
    for name in ("sft", "sl-cai"):
        found = placed(tmp_path, TO_PPO + f"more: {{stage: sft, from: {name}}}\n")
        assert reads(found["more"])["policy"] == ("sl-cai",)
        assert found["more"].upstream == ("revise", "sft")


def test_one_stage_under_another_name_is_found_all_the_same(tmp_path):
    found = placed(tmp_path, "revise: {}\ntuned: {stage: sft}\ncompare: {}\n")
    assert reads(found["compare"])["policy"] == ("tuned",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sfft: {}\n", r"pipeline\.yaml:6:1: the key `sfft` is unknown, did you mean `sft`\?"),
        ("sections: {}\n", r"pipeline\.yaml:6:1: the key `sections` is unknown"),
        ("more: {stage: sfft}\n", r":6:\d+: there is no stage `sfft`, did you mean `sft`\?"),
        ("revise: {}\nppo: {stage: sft}\n", r":7:\d+: `ppo` already has another meaning"),
        ("sl-cai: {stage: ppo}\n", r":6:\d+: `sl-cai` already has another meaning"),
        ("sweep: {stage: revise}\n", r":6:\d+: `sweep` already has another meaning"),
        ("logs: {stage: revise}\n", r":6:\d+: `logs` already has another meaning"),
        ("My/sft: {stage: sft}\n", r":6:\d+: a stage cannot be called `My/sft`"),
        ("more: {stage: revise, rouds: 2}\n", r":6:\d+: the key `more\.rouds` is unknown, did"),
        ("revise: {from: nobody}\n", r":6:\d+: `revise` reads from `nobody`, which nothing"),
        ("revise: {}\nsft: {from: sft}\n", r":7:\d+: `sft` reads from itself"),
        (
            "revise: {}\nsft: {from: prompts}\n",
            r":7:\d+: `prompts` is of the kind `prompts`, and",
        ),
        (
            "revise: {}\nsft: {from: [helpful-only, base]}\n",
            r":7:\d+: `sft` reads one policy, and `from` names `helpful-only` and `base`",
        ),
        (
            "revise: {}\none: {stage: sft}\ntwo: {stage: sft}\ncompare: {}\n",
            r":9:\d+: `compare` reads one policy, and this pipeline has `one` and `two`\. Choose",
        ),
        (
            "revise: {}\nsft: {from: b}\nb: {stage: sft, from: sft}\n",
            r":[78]:\d+: `(sft|b)` and `(sft|b)` read from each other",
        ),
        ("report: {from: prompts}\n", r":6:\d+: `prompts` is of the kind `prompts`, and `r"),
        ("sft: {}\n", r"has `sft:` but not `revise:`.*Add a `revise:` section"),
        ("revise: {}\nsft: {from: 3}\n", r":7:\d+: `sft\.from`"),
    ],
)
def test_what_cannot_be_placed_is_said_with_its_line(tmp_path, text, said):
    with pytest.raises(CaiError, match=said):
        placed(tmp_path, text)


def test_null_removes_a_section_whatever_its_name(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(HEAD + "revise: {}\nmore: {stage: sft}\n")
    assert "more" not in load_pipeline(path, ["more=null"]).settings.sections
    with pytest.raises(CaiError, match="`mroe` is unknown"):
        load_pipeline(path, ["mroe=null"])


def test_a_pipeline_without_a_stage_is_refused():
    data = {key: value for key, value in SMALLEST.items() if key != "prompts"}
    with pytest.raises(CaiError, match="has no stage"):
        pipeline_settings(data)


def test_only_a_model_in_a_folder_can_be_trained(tmp_path):
    server = {"path": "m", "engine": "openai", "server": {"base_url": "http://127.0.0.1:9/v1"}}
    data = {"models": {"helpful": server}, "revise": {}}
    run_of(data, tmp_path)
    with pytest.raises(CaiError, match="a model on a server cannot be trained, and `sft`"):
        run_of({**data, "sft": {}}, tmp_path)
    models = {"helpful": server, "base": {"path": "playground"}}
    run_of({**data, "models": models, "sft": {}}, tmp_path)


def test_settings_are_kept_as_they_were_written(tmp_path):
    text = "more: {stage: sft, from: helpful-only, epochs: 3}\nrevise: {}\n"
    (tmp_path / "pipeline.yaml").write_text(HEAD + text)
    settings = read_resolved(tmp_path)
    assert list(settings.sections) == ["prompts", "revise", "more"]
    again = pipeline_settings(settings.model_dump(mode="json"))
    assert again == settings
    assert settings.named(SftSettings)["more"].start == ("helpful-only",)
    assert "sections" not in settings.model_dump(mode="json")


TOY = '''
"""`count`: prompts in, their lengths out."""

import json
import os

from cai.pipeline.stage import PROMPTS, Need, Output, Stage
from cai.data.records import PromptRow
from cai.data.rows import Item
from cai.settings import StageSettings
from cai.data.store import RowStore, read_rows
from cai.pipeline.data_stage import data_metrics, make_rows
from cai.pipeline.engines import Engines


class CountSettings(StageSettings, frozen=True):
    """How lengths are counted."""

    unit: str = "words"
    """`words` or `characters`."""


def _run(context):
    async def count(item):
        if os.environ.get("TOY_FAILS") and made:
            raise RuntimeError("out of power")
        made.append(item.key)
        text = item.inputs.messages[-1].content
        length = len(text.split() if context.settings.unit == "words" else text)
        return item.inputs.model_copy(update={"tags": {"length": str(length)}})

    made = []
    prompts = read_rows(context.source(PROMPTS) / "rows.jsonl", PromptRow)
    items = [Item(row.key, context.settings.unit, row) for row in prompts]
    with Engines(context.fingerprint) as engines:
        rows = make_rows(
            context, engines, items, count,
            store=RowStore(context.folder, PromptRow), concurrency=1, title=context.name,
        )
    return data_metrics(rows, engines.usage, 0.0, made=len(made))


STAGE = Stage(
    name="count",
    settings=CountSettings,
    makes=Output("lengths", "lengths"),
    needs=(Need(PROMPTS, ("prompts",)),),
    run=_run,
    outputs=("rows.jsonl",),
)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Add a stage from another package: one module, one class of settings, one line."""
    package = tmp_path / "package" / "toy_stages"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "count.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(package.parent))
    from toy_stages import count  # pyright: ignore

    monkeypatch.setattr(method, "METHOD", (*method.METHOD, count.STAGE))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("toy_stages")]:
        del sys.modules[name]


def invoke(*arguments, env=None):
    return CliRunner(env={"COLUMNS": "200", **(env or {})}).invoke(app, [*map(str, arguments)])


def test_a_new_stage_runs_is_resumed_and_is_seen_everywhere(toy):
    path, out = toy / "mine.yaml", toy / "run"
    limited = HEAD.replace('"playground:red_team"', '{path: "playground:red_team", limit: 30}')
    limited = limited.replace('"playground:helpful"', '{path: "playground:helpful", limit: 30}')
    text = limited + "count: {}\nletters: {stage: count, unit: characters}\nreport: {}\n"
    path.write_text(text)
    command = ("run", path, "--out", out)

    planned = invoke(*command, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert [line.split()[0] for line in planned.stdout.splitlines()[1:] if line[0] != " "] == [
        "prompts",
        "count",
        "letters",
        "report",
    ]
    assert not out.exists()

    stopped = invoke(*command, env={"TOY_FAILS": "1"})
    assert stopped.exit_code == 1
    assert "out of power" in stopped.stderr
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    rows = len((out / "count" / "rows.jsonl").read_text().splitlines())
    metrics = json.loads((out / "count" / "metrics.json").read_text())
    assert (metrics["rows"], metrics["rows_reused"], metrics["made"]) == (rows, 1, rows - 1)
    again = invoke(*command)
    assert [line for line in again.stdout.splitlines() if "up to date" in line] == [
        f"{name}: up to date" for name in ("prompts", "count", "letters", "report")
    ]
    changed = invoke(*command, "--set", "letters.unit=words", "--dry-run").stdout
    assert re.search(r"letters +run +letters\.unit changed from characters to words", changed)
    assert re.search(r"count +be left as it is", changed)

    report = json.loads((out / "report.json").read_text())
    assert list(report["stages"]) == ["prompts", "count", "letters"]
    assert report["stages"]["letters"]["stage"] == "count"
    page = (out / "report.html").read_text()
    assert "letters" in page
    assert "count" in page

    offered = invoke(
        env={
            "_CAI_COMPLETE": "complete_bash",
            "COMP_WORDS": f"cai run {path} --only l",
            "COMP_CWORD": "4",
        }
    )
    assert offered.stdout.split() == ["letters"]
    settings = invoke("settings").stdout
    assert "## `count`" in settings
    assert "| `unit` | `words` |" in settings


def test_a_stage_alone_is_run_by_its_own_name(toy):
    run = run_of({"count": {}, "letters": {"stage": "count"}}, toy / "run")
    with pytest.raises(CaiError, match=r"no stage `sft`. It has: prompts, count, letters"):
        run_pipeline(run, "sft")
    with pytest.raises(CaiError, match=r"`letters` reads what `prompts` makes"):
        run_pipeline(run, "letters")
