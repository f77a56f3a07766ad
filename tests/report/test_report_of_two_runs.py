import json
from pathlib import Path

import pytest
from parsed_page import Page, strict_json
from rich.console import Console
from synthetic_run import make_run, pipeline

from cai.data.store import write_json
from cai.report.comparison import write_comparison
from cai.report.terminal import comparison_table
from cai.report.write import write_report


def compared(before, after) -> dict:
    """Return the JSON that lies beside the page of two runs."""
    path, _ = write_comparison(before, after)
    return json.loads(path.with_suffix(".json").read_text())


def test_two_runs_are_held_against_each_other(run: Path, tmp_path_factory):
    other = make_run(tmp_path_factory.mktemp("runs") / "other")
    summary = json.loads((other / "evaluate" / "summary.json").read_text())
    summary["rl-cai"]["harmful_rate"] = {"value": 0.5, "low": 0.44, "high": 0.56, "n": 300}
    summary["<b>mine"] = summary.pop("sl-cai")
    write_json(other / "evaluate" / "summary.json", summary)
    settings = pipeline(ppo={"kl_coef": 0.3}, constitution="<u>new")
    path, found = write_comparison((run, pipeline()), (other, settings))
    assert path == other / f"compared-with-{run.name}.html"
    facts = strict_json(path.with_suffix(".json").read_text())
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert page.scripts == []
    assert {"b", "u"}.isdisjoint(page.tags)
    harmful = facts["evaluation"]["rl-cai"]["harmful_rate"]
    before = harmful["before"]["value"]
    assert harmful["difference"]["value"] == pytest.approx(0.5 - before)
    assert facts["alone"] == ["<b>mine", "sl-cai"]
    assert ["ppo.kl_coef", 0.05, 0.3] in facts["settings"]
    assert ["constitution", "playground", "<u>new"] in facts["settings"]
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(comparison_table(found))
    told = console.export_text()
    shown = f"+{100 * (0.5 - before):.0f} ("
    assert shown in told
    assert shown.rstrip(" (") in page.text
    assert f"rl-cai of {other.name} answers harmfully" in page.text
    equal = write_comparison((run, pipeline()), (run, pipeline()))[1]
    assert equal.settings == equal.principles == equal.alone == []


def test_critiqued_and_direct_revisions_stand_side_by_side(run: Path):
    """The paper's figure 7: the run with critiques, and the one without."""
    graded = {"evaluate": {"grader": "refusals"}}
    direct = pipeline(revise={"critique": False}, **graded)
    path, found = write_comparison((run, pipeline(revise={}, **graded)), (run, direct))
    assert [len(report.revisions.rounds) for report in found.reports] == [3, 3]
    assert path.read_text(encoding="utf-8").count("<span>revision 2</span>") == 2
    assert ("revise.critique", True, False) in found.settings
    write_report(run, direct)
    alone = Page((run / "report.html").read_text(encoding="utf-8"))
    assert "revised directly, without critiques" in alone.text
    ungraded, _ = write_comparison((run, pipeline()), (run, direct))
    shown = ungraded.read_text(encoding="utf-8")
    assert (
        "<span>revision 2</span>" not in shown
    )  # No grader's words; the preference scores are there.
    assert shown.count("Preference score by number of revisions: ") == 2


def test_other_measures_are_compared_where_their_scale_is_the_same(run: Path, tmp_path_factory):
    other = make_run(tmp_path_factory.mktemp("runs") / "other")
    found = json.loads((other / "evaluate" / "measures.json").read_text())
    found["harmfulness"]["models"]["rl-cai"] = {"value": 3.5, "low": 3.4, "high": 3.6, "n": 60}
    found["checkpoints"][0]["evaluation"]["harmful_rate"]["value"] = 0.9
    write_json(other / "evaluate" / "measures.json", found)
    facts = compared((run, pipeline()), (other, pipeline()))
    same = facts["evaluation"]["rl-cai"]["elo/harmless"]["difference"]
    assert same["value"] == 0  # Both by one preference model.
    manifest = json.loads((other / "preference" / "manifest.json").read_text())
    manifest["outputs"] = {"model/model.safetensors": {"hash": "another"}}
    write_json(other / "preference" / "manifest.json", manifest)
    path, comparison = write_comparison((run, pipeline()), (other, pipeline()))
    facts = json.loads(path.with_suffix(".json").read_text())
    tuned = facts["evaluation"]["rl-cai"]
    harm = tuned["harmfulness"]
    assert harm["difference"]["value"] == pytest.approx(3.5 - harm["before"]["value"])
    assert tuned["elo/harmless"]["difference"] is None
    assert tuned["alignment_tax/perplexity_ratio"]["difference"]["value"] == 0
    html = path.read_text(encoding="utf-8")
    assert html.count("<summary>The numbers") == 4  # Elo and checkpoints, of each run.
    page = Page(html)
    for words in (
        "two scales",
        "Absolute harmfulness, 0 to 4",
        "Checkpoints of PPO",
        "Boilerplate",
    ):
        assert words in page.text
    (title, points), (_, changed) = (
        of_run["rl-cai"]["harmful_rate"] for of_run in facts["checkpoints"]
    )
    assert title == "Harmful answers"
    assert changed[1][1]["value"] == 0.9 != points[1][1]["value"]
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(comparison_table(comparison))
    assert "two scales" in console.export_text()
    found["elo"]["method"], found["judge"] = "judge", "a judge"
    for folder in (run, other):
        write_json(folder / "evaluate" / "measures.json", found)
    judged = compared((run, pipeline()), (other, pipeline()))["evaluation"]["rl-cai"]
    assert judged["elo/harmless"]["difference"]["value"] == 0
    (run / "harmfulness").mkdir()
    write_json(run / "harmfulness" / "manifest.json", manifest)
    rating = pipeline(harmfulness={"ratings": {"path": "rated.jsonl"}})
    raters = compared((run, rating), (other, rating))["evaluation"]["rl-cai"]
    assert raters["harmfulness"]["difference"] is None
    (run / "evaluate" / "measures.json").unlink()
    lone = compared((run, pipeline()), (other, pipeline()))
    assert lone["evaluation"]["rl-cai"]["harmfulness"]["before"] == {}
    assert lone["checkpoints"][0] == {}
    turned = compared((other, pipeline()), (run, pipeline()))
    assert turned["evaluation"]["rl-cai"]["harmfulness"]["after"] == {}
