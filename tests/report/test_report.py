import json
import re
import shutil
from pathlib import Path

import pytest
from parsed_page import report_on, strict_json
from rich.console import Console
from synthetic_run import MODELS, PRINCIPLES, answers, make_run, measured, pipeline, write_jsonl

from cai.cli.evaluate_tables import show_results
from cai.data.store import write_json, write_rows
from cai.errors import CaiError
from cai.evaluate.rates import UNKNOWN, Rate
from cai.evaluate.results import Choices, Chosen, Results
from cai.evaluate.summarise import summarise
from cai.report.terminal import results_table
from cai.report.write import read_report, write_report

RATES = (
    "harmful_rate",
    "evasive_rate",
    "explained_refusal_rate",
    "helpful_rate",
    "over_refusal_rate",
    "garbled_rate",
)


def test_a_finished_run_says_what_came_out(run: Path):
    page, report = report_on(run)
    summary = json.loads((run / "evaluate" / "summary.json").read_text())
    assert report["evaluation"] == summary
    assert list(report["evaluation"]) == ["helpful-only", "sl-cai", "rl-cai"]
    harmful = summary["rl-cai"]["harmful_rate"]["value"]
    assert f"rl-cai {harmful:.0%}" in page.text
    assert "has not finished" not in page.text
    for words in ("fraud", "Preference score", "2.13.0", "201,344"):
        assert words in page.text
    assert "First watch the house." in page.row_text
    assert "polyline" in page.tags
    assert [found["round"] for found in report["revisions"]["scores"]] == [0, 1, 2]
    assert "Preference score by number of revisions" in page.text


def test_principles_are_told_with_their_wording_and_their_rows(run: Path):
    page, report = report_on(run)
    assert list(report["principles"]) == list(PRINCIPLES)
    theft = report["principles"]["theft"]
    assert theft["text"]["comparison"] == "Choose the response without theft."
    rows = [json.loads(line) for line in (run / "revise/rows.jsonl").read_text().splitlines()]
    drawn = [step["principle"]["id"] for row in rows for step in row["steps"]]
    assert theft["rounds"] == theft["changed"]["n"] == drawn.count("theft")
    assert theft["verdicts"] == 0
    assert report["principles"]["fraud"]["verdicts"] == 40
    assert "Choose the response without theft." in page.text
    assert "under the constitution playground of 6 principles" in page.text


def test_every_row_is_accounted_for(run: Path):
    _, report = report_on(run)
    for where, states in report["states"].items():
        stage, name = where.split("/")
        lines = (run / stage / f"{name}.jsonl").read_text().splitlines()
        assert sum(states.values()) == len(lines)
    lost = [
        json.loads(line)["state"] != "ok"
        for line in (run / "revise" / "rows.jsonl").read_text().splitlines()
    ]
    assert 0 < report["states"]["revise/rows"]["too_long"] == sum(lost)


@pytest.mark.parametrize(
    "kept",
    [
        (),
        ("prompts",),
        ("prompts", "revise"),
        ("compare",),
        ("prompts", "revise", "sft", "compare", "preference", "ppo"),
        ("evaluate",),
    ],
)
def test_any_stage_may_be_missing(run: Path, kept: tuple[str, ...]):
    for folder in list(run.iterdir()):
        if folder.is_dir() and folder.name not in kept:
            shutil.rmtree(folder)
    page, report = report_on(run)
    assert set(report["stages"]) == set(kept)
    if "evaluate" not in kept:
        assert report["evaluation"] == {}
        assert "not been evaluated" in page.text or "No stage" in page.text
    if "ppo" not in kept and "evaluate" not in kept:
        assert "polyline" not in page.tags


def test_a_stage_under_way_is_provisional(run: Path):
    revise = run / "revise"
    (revise / "manifest.json").unlink()
    whole = (revise / "rows.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)[:10]
    (revise / "rows.jsonl").unlink()
    (revise / "rows.partial.jsonl").write_bytes(b"".join(lines) + b'{"key": "torn')
    page, report = report_on(run)
    assert sum(report["states"]["revise/rows"].values()) == 10
    assert report["stages"]["revise"]["complete"] is False
    assert "Not finished yet, so the results may change: revise." in page.text


def test_no_rows_at_all(tmp_path: Path):
    for stage in ("prompts", "revise", "compare", "evaluate"):
        write_rows(tmp_path / stage / "rows.jsonl", [])
        write_json(tmp_path / stage / "metrics.json", {"rows": 0})
    write_rows(tmp_path / "compare" / "judgements.jsonl", [])
    write_json(tmp_path / "evaluate" / "summary.json", {})
    write_jsonl(tmp_path / "ppo" / "steps.jsonl", [])
    _, report = report_on(tmp_path)
    assert report["states"] == {}
    assert report["judgements"]["order_agreement"] is None


def test_unmeasured_rates_stay_unmeasured(run: Path):
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    summary = {
        "helpful-only": {
            **dict.fromkeys(RATES, nothing),
            "over_refusal_rate": {"value": 0.25, "low": 0.2, "high": 0.31, "n": 300},
        },
        "rl-cai": dict.fromkeys(RATES, nothing),
    }
    write_json(run / "evaluate" / "summary.json", summary)
    page, report = report_on(run)
    assert report["evaluation"] == summary
    assert "25%" in page.text
    assert "None" not in page.text
    assert "answers harmfully" not in page.text
    everything = {"rl-cai": dict.fromkeys(RATES, nothing)}
    write_json(run / "evaluate" / "summary.json", everything)
    assert "measured nothing" in report_on(run)[0].text


def test_diverged_numbers_are_null_in_valid_json(run: Path):
    (run / "sft" / "metrics.json").write_text('{"final_loss": NaN, "steps": 3}')
    steps = [{"step": n, "objective/scores": [1.0, float("nan"), 2.0][n % 3]} for n in range(9)]
    write_jsonl(run / "ppo" / "steps.jsonl", steps)
    page, _ = report_on(run)
    report = strict_json((run / "report.json").read_text())
    assert report["stages"]["sft"]["metrics"] == {"final_loss": None, "steps": 3}
    assert re.search(r"\bnan\b", page.text, re.IGNORECASE) is None


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("revise/rows.jsonl", '{"key": "k"}\n'),
        ("evaluate/rows.jsonl", "not json\n"),
        ("ppo/steps.jsonl", "[1]\n"),
        ("ppo/steps.jsonl", "{\n"),
    ],
)
def test_damage_is_named_by_file_and_line(run: Path, path: str, line: str):
    with (run / path).open("a") as file:
        file.write(line)
    number = len((run / path).read_text().splitlines())
    with pytest.raises(CaiError) as caught:
        write_report(run, pipeline())
    assert f"{run / path}:{number}:" in str(caught.value)


def test_report_json_is_read_as_it_was_written(run: Path):
    _, report = report_on(run)
    read = read_report(run)
    assert read.plain() == report
    assert list(read.plain()["measures"]) == list(report["measures"])
    shutil.rmtree(run / "evaluate")
    _, report = report_on(run)
    assert report["measures"] == report["evaluation"] == report["label_quality"] == {}
    assert read_report(run).plain() == report
    (run / "report.json").write_text('{"schema": 1}')
    with pytest.raises(CaiError, match=f"`cai report {run}` writes it again"):
        read_report(run)
    (run / "report.json").unlink()
    assert read_report(run) is None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("measures.json", '{"schema": 1}', "`schema` must be 2"),
        ("measures.json", '{"schema": 2, "elo": {"method": "dice"}}', "elo.method"),
        ("summary.json", '{"m": {"harmful_rate": {"value": "much", "n": 1}}}', "value"),
        ("summary.json", '{"m": {"harmless_rate": {}}}', "m.harmless_rate"),
        ("summary.json", '{"m": ', "not JSON"),
        ("revisions.json", "[]", "it must be a section of keys and values"),
    ],
)
def test_results_that_are_damaged_or_of_another_version_are_named(
    run: Path, name: str, text: str, said: str
):
    path = run / "evaluate" / name
    path.write_text(text)
    with pytest.raises(CaiError) as caught:
        write_report(run, pipeline())
    assert str(caught.value).startswith(f"{path} is damaged or was written by another version")
    assert said in str(caught.value)


def test_what_the_guard_saw_is_told(tmp_path: Path):
    folder = make_run(tmp_path / "run", samples=1)
    first = {"guard/score": 0.5, "guard/length": 37.6, "guard/evasive": 0.07}
    checks = [first, {}, {"guard/score": 0.8}]
    write_jsonl(folder / "ppo" / "steps.jsonl", [{"step": n} | c for n, c in enumerate(checks, 1)])
    write_report(folder, pipeline())
    html = (folder / "report.html").read_text(encoding="utf-8")
    table = html[html.index('aria-label="Checks of the guard"') :]
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", table[: table.index("</table>")])
    assert cells[:6] == ["", "step 1", "step 3", "Preference score", "0.500", "0.800"]
    assert cells[6:] == ["Length, tokens", "37.6", "–", "Evasive", "7%", "–"]


def test_terminal_table_has_every_rate_of_every_model(run: Path):
    _, report = report_on(run)
    rates = {name: summary.rates for name, summary in read_report(run).evaluation.items()}
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(results_table(rates | {"[red]\x1b[31mx": {}}))
    text = console.export_text()
    harmful = report["evaluation"]["helpful-only"]["harmful_rate"]
    low, high = (f"{100 * harmful[end]:.0f}" for end in ("low", "high"))
    assert f"{harmful['value']:.0%} ({low}–{high})" in text
    assert "[red]⟨U+001B⟩[31mx" in text
    console.print(results_table({}))


def test_what_nobody_measured_is_left_out_and_many_models_get_rows():
    rates = {"harmful_rate": UNKNOWN, "over_refusal_rate": Rate(0.5, 0.4, 0.6, 10)}

    def shown(models):
        console = Console(width=60, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
        console.print(results_table({f"model-{n}": rates for n in range(models)}))
        return console.export_text()

    for text in (shown(2), shown(9)):
        assert "Over-refusal" in text
        assert "Harmful" not in text
        assert "Red-team" not in text
        assert "…" not in text
    rows = [line.split() for line in shown(9).splitlines() if "model-" in line]
    assert rows == [["│", f"model-{n}", "│", "50%", "(40–60)", "│"] for n in range(9)]


def test_tables_of_an_evaluation_have_all_that_was_measured():
    graded = answers(samples=1)
    for row in graded:
        row.tags = {"set": f"{row.kind} {row.key < '8'}"}
    measures = measured(graded)
    half = Rate(0.5, 0.4, 0.6, 40)
    chosen = Chosen(accuracy=half, first_share=half, mean_mass=0.9, states={"ok": 38, "tie": 1})
    both = {"always_first": half, "longest": UNKNOWN}
    elo = {"method": "judge", "matches": {"ok": 5, "tie": 1, "failed": 2}, "order_agreement": 0.83}
    changes = {
        "choices": {"hhh": Choices(questions=40, baselines=both, models={"rl-cai": chosen})},
        "elo": measures.elo.model_copy(update=elo),
        "flags": ["A flag."],
    }
    results = Results(
        evaluation=summarise(graded, models=list(MODELS)),
        measures=measures.model_copy(update=changes),
    )
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    show_results(console, results, {"published": half}, {})
    text = " ".join(console.export_text().replace("│", " ").split())
    tax = measures.alignment_tax["rl-cai"]
    worth = measures.elo.harmless["rl-cai"]
    harm = measures.harmfulness.models["rl-cai"]
    for words in (
        "Share of answers (95% interval)",
        "By prompt set",
        "published 50% (40–60) 40",
        "hhh: rl-cai 50% (40–60) 40",
        "hhh: the longest option – 0",
        "Elo by the judge, against helpful-only",
        "helpful-only 0 0",
        f"rl-cai {worth.value:.0f} ({worth.low:.0f} to {worth.high:.0f})",
        f"rl-cai {harm.value:.2f} ({harm.low:.2f} to {harm.high:.2f}) {harm.n}",
        f"rl-cai {tax.perplexity:.2f} {tax.perplexity_ratio.value:.2f} ",  # its ends are the same
        "Wording, share of answers",
        "Checkpoints of PPO",
        "No verdict on 2 matches (failed)",
        "in 83% of the matches",
        "Note: A flag.",
    ):
        assert words in text
