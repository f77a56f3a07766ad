import base64
import gzip
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_run import PRINCIPLES, answers, make_run, pipeline, write_jsonl

from cai.errors import CaiError
from cai.report import comparison_table, results_table, write_comparison, write_report
from cai.store import write_json, write_rows

RATES = (
    "harmful_rate",
    "evasive_rate",
    "explained_refusal_rate",
    "helpful_rate",
    "over_refusal_rate",
    "garbled_rate",
)


class Page(HTMLParser):
    """The tags, attributes and visible text of a page, and whether its tags are balanced."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.scripts: list[dict[str, str]] = []
        self.packed = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.packed = data if "id" in self.scripts[-1] else self.packed
        elif self.open[-1:] != ["style"]:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def rows(self) -> dict:
        """What the page's script unpacks."""
        return strict_json(gzip.decompress(base64.b64decode(self.packed)).decode())

    @property
    def row_text(self) -> str:
        """All text of the page's rows."""
        found, waiting = [], [self.rows]
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                found.append(item)
            elif isinstance(item, dict):
                waiting += [*item.values()]
            elif isinstance(item, list):
                waiting += item
        return "\n".join(found)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("template"))


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    """A finished run that the test may change."""
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)


def report_on(folder: Path, settings=None) -> tuple[Page, dict]:
    path = write_report(folder, settings or pipeline())
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert page.scripts == [
        {"type": "text/plain", "id": "packed-rows"},
        {"type": "module"},
    ]
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "action", "data", "poster"):
            assert value.startswith("#")
    return page, json.loads((folder / "report.json").read_text(encoding="utf-8"))


def strict_json(text: str):
    return json.loads(text, parse_constant=pytest.fail)


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


def test_no_network_is_ever_needed(run: Path):
    write_report(run, pipeline())
    html = (run / "report.html").read_text(encoding="utf-8")
    for reference in ("http:", "https:", "://", "url(", "@import", "<link", "<iframe", "<img"):
        assert reference not in html


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
    if "ppo" not in kept:
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
    assert "Not finished, so provisional: revise." in page.text


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


ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</div></details></style><svg onload=alert(1)>",
    "{{ 7 * 191 }}{% raw %}",
    "javascript:alert(1)",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_of_models_stays_text(run: Path, attack: str):
    for path in run.glob("*/*.jsonl"):
        poison(path, attack)
    for path in (*run.glob("*/metrics.json"), *run.glob("*/manifest.json")):
        content = json.loads(path.read_text())
        write_json(path, {**content, attack: attack, "environment": {attack: attack}})
    summary = json.loads((run / "evaluate" / "summary.json").read_text())
    summary[attack] = summary.pop("sl-cai")
    summary[attack]["labels"]["red_team"][attack] = 3
    summary[attack]["by_category"][attack] = summary[attack]["by_category"]["theft"]
    write_json(run / "evaluate" / "summary.json", summary)
    page, _ = report_on(run, pipeline(constitution=attack))
    assert attack in page.text
    assert attack in page.row_text
    assert "1337" not in page.text
    assert page.tags.isdisjoint({"img", "iframe", "object"})


def poison(path: Path, attack: str) -> None:
    """Put the attack wherever a row has free text."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if path.name == "steps.jsonl":
            row[attack] = 1.0
            continue
        for message in row.get("messages", []):
            message["content"] += attack
        for name in ("response", "task", "source", "error"):
            if name in row and row[name] != "ai":
                row[name] = attack
        for step in row.get("steps", []):
            step.update(critique=attack, revision=attack)
            step["principle"]["id"] = attack
        if path.name == "pairs.jsonl":
            for response in row["responses"]:
                response.update(text=attack, model=attack)
        elif "responses" in row:
            row["responses"] = [attack, attack + "!"]
        if "evidence" in row:
            for evidence in row["evidence"]:
                evidence["reasoning"] = attack
            row["principle"]["id"] = attack
        if "verdict" in row:
            row["verdict"]["label"] = attack
            row["model"] = attack
    write_jsonl(path, rows)


def test_characters_that_hide_or_reorder_are_spelt_out(tmp_path: Path):
    rows = answers()
    for row in rows:
        row.response = "ab\x1b[31mred\x1b[0m \u202egnp\u202c \x00\x07 z\u200bw \x9b2Jend"
    write_rows(tmp_path / "evaluate" / "rows.jsonl", rows)
    page, _ = report_on(tmp_path)
    shown = (
        "ab⟨U+001B⟩[31mred⟨U+001B⟩[0m ⟨U+202E⟩gnp⟨U+202C⟩ ⟨U+0000⟩⟨U+0007⟩ z⟨U+200B⟩w ⟨U+009B⟩2Jend"
    )
    assert shown in page.row_text
    assert not set(page.row_text) & set("\x00\x07\x1b\x9b\u202e\u202c\u200b")


def test_a_megabyte_in_one_line_is_shortened_with_a_note(tmp_path: Path):
    row = answers()[0]
    row.response = "x" * 1_000_000
    write_rows(tmp_path / "evaluate" / "rows.jsonl", [row])
    page, _ = report_on(tmp_path)
    assert "x" * 4000 in page.row_text
    assert "996,000 more characters are in the rows" in page.row_text
    assert len(page.row_text) < 10_000


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


def test_the_policy_names_the_pages_own_script_and_style(run: Path):
    html = write_report(run, pipeline()).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1].replace("&#39;", "'")
    for tag, opening in (("style", "<style>"), ("script", '<script type="module">')):
        text = html.split(opening)[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_two_runs_are_held_against_each_other(run: Path, tmp_path_factory):
    other = make_run(tmp_path_factory.mktemp("runs") / "other")
    summary = json.loads((other / "evaluate" / "summary.json").read_text())
    summary["rl-cai"]["harmful_rate"] = {"value": 0.5, "low": 0.44, "high": 0.56, "n": 300}
    summary["<b>mine"] = summary.pop("sl-cai")
    write_json(other / "evaluate" / "summary.json", summary)
    settings = pipeline(ppo={"kl_coef": 0.3}, constitution="<i>new")
    path, facts = write_comparison((run, pipeline()), (other, settings))
    assert path == other / f"compared-with-{run.name}.html"
    assert strict_json(path.with_suffix(".json").read_text()) == json.loads(json.dumps(facts))
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert page.scripts == []
    assert {"b", "i"}.isdisjoint(page.tags)
    harmful = facts["evaluation"]["rl-cai"]["harmful_rate"]
    before = harmful["before"]["value"]
    assert harmful["difference"]["value"] == pytest.approx(0.5 - before)
    assert facts["alone"] == ["<b>mine", "sl-cai"]
    assert ("ppo.kl_coef", None, 0.3) in facts["settings"]
    assert ("constitution", "playground", "<i>new") in facts["settings"]
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(comparison_table(facts))
    told = console.export_text()
    shown = f"+{100 * (0.5 - before):.0f} ("
    assert shown in told
    assert shown.rstrip(" (") in page.text
    assert f"rl-cai of {other.name} answers harmfully" in page.text
    equal = write_comparison((run, pipeline()), (run, pipeline()))[1]
    assert equal["settings"] == equal["principles"] == equal["alone"] == []


def test_critiqued_and_direct_revisions_stand_side_by_side(run: Path):
    """The paper's figure 7: the run with critiques, and the one without."""
    graded = {"evaluate": {"grader": "refusals"}}
    direct = pipeline(revise={"critique": False}, **graded)
    path, facts = write_comparison((run, pipeline(revise={}, **graded)), (run, direct))
    assert [len(rounds) for rounds in facts["revisions"]] == [3, 3]
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text.count("revision 2") == 2
    assert ("revise.critique", True, False) in facts["settings"]
    write_report(run, direct)
    alone = Page((run / "report.html").read_text(encoding="utf-8"))
    assert "revised directly, without critiques" in alone.text
    ungraded, _ = write_comparison((run, pipeline()), (run, direct))
    assert "revision 2" not in ungraded.read_text(encoding="utf-8")


def test_what_the_guard_saw_is_told(tmp_path: Path):
    folder = make_run(tmp_path / "run", samples=1)
    checks = [{"guard/score": 0.5, "guard/evasive": 0.07}, {}, {"guard/score": 0.8}]
    write_jsonl(folder / "ppo" / "steps.jsonl", [{"step": n} | c for n, c in enumerate(checks, 1)])
    write_report(folder, pipeline())
    html = (folder / "report.html").read_text(encoding="utf-8")
    table = html[html.index('aria-label="Checks of the guard"') :]
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", table[: table.index("</table>")])
    assert cells[:6] == ["", "step 1", "step 3", "Preference score", "0.500", "0.800"]
    assert cells[cells.index("Evasive") :][:3] == ["Evasive", "7%", "–"]


def test_terminal_table_has_every_rate_of_every_model(run: Path):
    _, report = report_on(run)
    report["evaluation"]["[red]\x1b[31mx"] = {}
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(results_table(report))
    text = console.export_text()
    harmful = report["evaluation"]["helpful-only"]["harmful_rate"]
    low, high = (f"{100 * harmful[end]:.0f}" for end in ("low", "high"))
    assert f"{harmful['value']:.0%} ({low}–{high})" in text
    assert "[red]⟨U+001B⟩[31mx" in text
    console.print(results_table({"evaluation": {}}))
