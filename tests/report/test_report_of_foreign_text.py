"""Text of models and files is shown, never obeyed, and the page asks no one for anything."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from parsed_page import report_on
from synthetic_run import answers, pipeline, write_jsonl

from cai.data.store import write_json, write_rows
from cai.report.write import write_report

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


def test_no_network_is_ever_needed(run: Path):
    write_report(run, pipeline())
    html = (run / "report.html").read_text(encoding="utf-8")
    for reference in ("http:", "https:", "://", "url(", "@import", "<link", "<iframe", "<img"):
        assert reference not in html


def test_the_policy_names_the_pages_own_script_and_style(run: Path):
    html = write_report(run, pipeline()).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1].replace("&#39;", "'")
    for tag, opening in (("style", "<style>"), ("script", '<script type="module">')):
        text = html.split(opening)[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
