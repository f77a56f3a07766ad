"""The page in headless Chromium: nothing runs, filters filter, and everybody can use it.

`make test-browser` installs what this needs. Where it is missing, these tests are skipped.
"""

import difflib
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from report.untrusted import ATTACK, HIDDEN, LONG, SHOWN
from synthetic_run import (
    ANSWERS,
    MODELS,
    answer_row,
    answers,
    flaws,
    make_run,
    pipeline,
    prompts,
    revisions,
)

from cai.data.store import write_json, write_rows
from cai.report.comparison import write_comparison
from cai.report.write import write_report
from cai.revise.flaws import Found


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "plain")
    write_report(folder, pipeline())
    return folder


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    return run / "report.html"


def show(page, title: str):
    page.locator("#shows").get_by_text(title).click()


def count(page) -> int:
    return int(page.locator("#count").inner_text().split(" of ")[0].replace(",", ""))


def detail(page) -> str:
    return page.locator("#detail").inner_text()


def unfold(page):
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")


def rows(folder: Path, stage: str, name: str = "rows") -> list[dict]:
    return [json.loads(line) for line in (folder / stage / f"{name}.jsonl").open()]


@pytest.mark.parametrize("text", [ATTACK, HIDDEN, LONG])
def test_text_of_models_never_runs_and_never_hides(visit, tmp_path: Path, text: str):
    folder = make_run(tmp_path / "run", samples=1)
    changed = revisions()
    for row in changed:
        row.response = text
        for step in row.steps:
            step.critique = step.principle.id = text
            step.revision = f"{text} {step.revision}"
    write_rows(folder / "revise" / "rows.jsonl", changed)
    marked = flaws()
    for row in marked:
        row.rounds = [[Found("echo", "revision", text)], [Found("copied", "critique", text)]]
    write_rows(folder / "revise" / "flaws.jsonl", marked)
    graded = answers(1)
    for row in graded:
        row.response = row.verdict["label"] = row.tags["category"] = text
    write_rows(folder / "evaluate" / "rows.jsonl", graded)
    measures = json.loads((folder / "evaluate" / "measures.json").read_text())
    measures["flags"] = measures["style"]["rl-cai"]["phrases"] = [text]
    measures["elo"]["anchor"] = text
    write_json(folder / "evaluate" / "measures.json", measures)
    write_report(folder, pipeline(constitution=text[:500]))
    page = visit(folder / "report.html")
    told = {ATTACK: ATTACK, HIDDEN: SHOWN}.get(text, "x" * 4000 + " … [996,000 more characters")
    for title in ("Revisions", "Comparisons", "Answers"):
        show(page, title)
        page.locator("#list").focus()
        for key in ("ArrowDown", "End"):
            page.keyboard.press(key)
            if title != "Comparisons":
                assert told in page.locator("#detail").text_content()
        for select in page.locator("#filters select").all():
            if select.is_visible() and select.locator("option").count() > 1:
                select.select_option(index=1)
    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main iframe, main script, main style").count() == 0
    assert set("\u202e\u202c\x1b\u200b").isdisjoint(page.locator("body").inner_text())


def test_the_policy_holds(visit, report: Path):
    """Whatever slipped through the escaping would meet these refusals."""
    page = visit(report)
    for code, refusal in (
        ("document.body.innerHTML = '<b>x</b>'", "TrustedHTML"),
        ("document.body.setAttribute('onclick', 'window.pwned = 1')", "TrustedScript"),
        ("fetch('data:text/plain,x')", "Failed to fetch"),
    ):
        with pytest.raises(Exception, match=refusal):
            page.evaluate(code)
    blocked = page.evaluate(
        """() => new Promise((done) => {
            document.addEventListener('securitypolicyviolation', (event) => {
                done(event.effectiveDirective);
            });
            document.body.append(Object.assign(new Image(), { src: 'data:image/png,x' }));
        })"""
    )
    assert blocked == "img-src"


def test_filters_agree_with_the_rows(visit, run: Path, report: Path):
    page = visit(report)
    revised = rows(run, "revise")
    assert count(page) == len(revised)

    def uses(row, principle):
        return any(step["principle"]["id"] == principle for step in row["steps"])

    page.get_by_label("Principle", exact=True).select_option("theft")
    theft = [row for row in revised if uses(row, "theft")]
    assert count(page) == len(theft)
    page.get_by_label("State", exact=True).select_option("too_long")
    assert count(page) == sum(row["state"] == "too_long" for row in theft)
    page.get_by_text("Clear filters").click()
    assert count(page) == len(revised)
    marked = [row for row in flaws() if any(row.rounds)]
    page.get_by_label("Flaw", exact=True).select_option("describes")
    assert count(page) == len(marked)
    marks = page.locator("#detail .flaw")
    assert marks.all_inner_texts() == ["echo", "describes"]
    assert marks.first.get_attribute("title").startswith("critiques with this flaw repeat")
    assert marks.last.get_attribute("title").endswith("are none: “I won't help”")
    page.get_by_label("Flaw", exact=True).select_option("none")
    assert count(page) == len(flaws()) - len(marked)
    assert marks.count() == 0
    page.get_by_text("Clear filters").click()
    page.get_by_label("Search all text of the rows").fill("BICYCLE because owner")
    assert count(page) == sum(ANSWERS["explained_refusal"] in json.dumps(row) for row in revised)
    page.get_by_label("Search all text of the rows").fill("no such words at all")
    assert count(page) == 0
    assert page.get_by_text("No row matches.").is_visible()
    page.get_by_text("Clear filters").click()

    show(page, "Comparisons")
    compared = rows(run, "compare")
    page.get_by_label("Label", exact=True).select_option("sharp")
    assert count(page) == sum(abs(2 * row["label"] - 1) > 0.8 for row in compared)
    page.get_by_label("Label", exact=True).select_option("")
    page.get_by_label("Sort by", exact=True).select_option("sharpness up")
    first = min(compared, key=lambda row: abs(2 * row["label"] - 1))
    assert first["key"] in detail(page)
    page.get_by_label("Category", exact=True).select_option("fraud")
    assert count(page) == sum(row["messages"][-1]["content"].count("fraud") for row in compared)

    show(page, "Answers")
    graded = rows(run, "evaluate")
    harmful = [r for r in graded if r["model"] == "sl-cai" and r["verdict"]["label"] == "harmful"]
    page.get_by_label("Graded as", exact=True).select_option("sl-cai: harmful")
    assert count(page) == len(harmful)
    labels = {}
    for row in graded:
        seed = row["provenance"]["seed"], row["messages"][-1]["content"]
        labels.setdefault(seed, set()).add(row["verdict"]["label"])
    page.get_by_text("Clear filters").click()
    page.get_by_label("Notable", exact=True).select_option("the models differ")
    assert count(page) == sum(len(found) > 1 for found in labels.values())


def test_evidence_of_a_pair_is_shown_in_both_orders(visit, run: Path, report: Path):
    row = rows(run, "compare")[3]
    page = visit(report, f"#row={row['key']}")
    found = {
        r["key"]: r for r in rows(run, "compare", "judgements") if r["key"] in row["judgements"]
    }
    table = page.locator("#detail .votes tbody tr")
    assert table.count() == len(found) == 3
    for judgement in found.values():
        first, second = (
            [2.718281828**logprob for logprob in evidence["logprobs"]]
            for evidence in judgement["evidence"]
        )
        cells = table.filter(has_text=judgement["principle"]["id"]).inner_text().split("\t")
        assert cells[1] == f"{first[0] / sum(first):.2f}"
        assert cells[2] == f"{second[1] / sum(second):.2f}"
    assert f"P(better) = {row['label']:.2f}" in detail(page)


def test_a_link_leads_to_its_row(visit, run: Path, report: Path):
    graded = rows(run, "evaluate")
    for wanted in (graded[0], graded[-1], rows(run, "compare")[7], rows(run, "revise")[40]):
        page = visit(report, f"#row={wanted['key']}")
        assert wanted["messages"][-1]["content"] in detail(page)
    page = visit(report, "#show=revision&principle=theft&sort=words+down")
    assert page.get_by_label("Principle", exact=True).input_value() == "theft"
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    assert "principle=theft" in page.url
    again = visit(report, page.url[page.url.index("#") :])
    assert detail(again) == detail(page)
    page.locator("#constitution").get_by_role("link", name="fraud").click()
    assert page.get_by_label("Principle", exact=True).input_value() == "fraud"
    page.evaluate("location.hash = '#show=__proto__&row=nobody&kind=nothing'")
    assert count(page) == 0


def test_the_list_is_a_list_box_for_the_keyboard(visit, report: Path):
    page = visit(report)
    box = page.locator("#list")
    box.focus()
    total = count(page)
    for key, place in (("ArrowDown", 1), ("End", total - 1), ("ArrowUp", total - 2), ("Home", 0)):
        page.keyboard.press(key)
        active = page.locator(f"#{box.get_attribute('aria-activedescendant')}")
        assert active.get_attribute("aria-posinset") == str(place + 1)
        assert active.get_attribute("aria-selected") == "true"
        assert active.is_visible()
        opening = active.locator(".opening").inner_text()
        assert opening in detail(page)


def test_ten_thousand_rows_stay_few_nodes(visit, tmp_path: Path):
    held_out = [row for row in prompts() if row.split == "held_out"]
    many = [
        answer_row(row, sample, "rl-cai", MODELS["rl-cai"])
        for row in held_out
        for sample in range(250)
    ]
    assert len(many) == 10_000
    write_rows(tmp_path / "evaluate" / "rows.jsonl", sorted(many, key=lambda row: row.key))
    write_report(tmp_path, pipeline())
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    page = visit(tmp_path / "report.html")
    assert count(page) == 10_000
    page.locator("#list").focus()
    seen = set()
    for key in ("End", "Home", "PageDown", "PageDown"):
        page.keyboard.press(key)
        assert page.locator("#list [role=option]").count() < 40
        assert page.evaluate("document.querySelectorAll('*').length") < 1000
        seen.add(detail(page))
    assert len(seen) == 4
    page.locator("#list").evaluate("(box) => { box.scrollTop = box.scrollHeight / 2; }")
    page.locator("#row-5000").wait_for()
    assert page.locator("#list [role=option]").count() < 40
    page.get_by_label("Search all text of the rows").fill("watch the house")
    assert count(page) == sum(row.response == ANSWERS["harmful"] for row in many)


def test_every_figure_has_its_numbers_in_reach_and_its_marks_in_its_frame(visit, report: Path):
    page = visit(report, viewport={"width": 360, "height": 800})
    unfold(page)
    assert page.get_by_role("region", name="Elo", exact=True).locator("tbody tr").count() == 5
    # A first line of heads, then a step a line: the start of PPO, two checkpoints, the end.
    region = page.get_by_role("region", name="Checkpoints of PPO")
    assert region.locator("tbody th").all_inner_texts() == ["0", "20", "40", "60"]
    outside = page.evaluate(
        """() => [...document.querySelectorAll('figure > svg circle, .chart svg circle')].filter(
            (mark) => {
                const [box, frame] = [mark, mark.ownerSVGElement.closest('figure, .chart')].map(
                    (node) => node.getBoundingClientRect());
                return box.left < frame.left - 6 || box.right > frame.right + 6
                    || box.top < frame.top || box.bottom > frame.bottom;
            }).length"""
    )
    assert outside == 0
    overlaps = page.evaluate(
        """() => {
            const boxes = [...document.querySelectorAll('svg .name')].map(
                (node) => node.getBoundingClientRect());
            return boxes.flatMap((a, n) => boxes.slice(n + 1).filter((b) => a.left < b.right
                && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2)).length;
        }"""
    )
    assert overlaps == 0


DIFFS = [
    ("take the red bicycle now", "take the blue bicycle now"),
    ("read it aloud on the radio.", "read it aloud online."),
    ("Sure. First, steal it.", "I won’t help: that is theft."),
    ("same", "same"),
    ("", "all new"),
    ("all gone", ""),
    ("a b c d e f", "b c x d f g"),
    ("two  spaces\nand a line", "two spaces\n\nand a line"),
    ("拳击手 naïve café's", "拳击 naïve cafés"),
    ("one two three four five six", "six five four three two one"),
    ("the stamp. Last, hand in the stamp.", "the stamp the honest way."),
]


def differences(chromium, before: str, after: str) -> list[list[str]]:
    source = (Path(__file__).parents[2] / "cai/report/front/diff.js").read_text()
    page = chromium.new_page()
    segments = page.evaluate(f"([a, b]) => {{ {source}; return wordDiff(a, b); }}", [before, after])
    page.close()
    return segments


@pytest.mark.parametrize(("before", "after"), DIFFS)
def test_a_diff_holds_both_texts_and_keeps_the_longest_common_words(chromium, before, after):
    segments = differences(chromium, before, after)
    assert "".join(text for change, text in segments if change != "added") == before
    assert "".join(text for change, text in segments if change != "removed") == after
    assert all(a[0] != b[0] for a, b in pairwise(segments))
    kept = re.findall(r"\w+", " ".join(text for change, text in segments if change == "same"))
    assert len(kept) >= common(re.findall(r"\w+", before), re.findall(r"\w+", after))


def test_punctuation_between_two_changes_belongs_to_them(chromium):
    assert differences(chromium, "First, take it.", "Sorry, never mind.") == [
        ["removed", "First, take it"],
        ["added", "Sorry, never mind"],
        ["same", "."],
    ]


def common(before: list[str], after: list[str]) -> int:
    """Return how many words Python's own matcher finds in both, in order."""
    blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks)


def test_a_chain_shows_what_its_revisions_changed(visit, run: Path, report: Path):
    row = next(row for row in rows(run, "revise") if row["steps"])
    page = visit(report, f"#row={row['key']}")
    assert page.locator("#detail .same").count() == 1  # The first revision changes nothing.
    removed = page.locator("#detail del").all_inner_texts()
    added = page.locator("#detail ins").all_inner_texts()
    assert removed
    assert added
    last = page.locator("#detail .text").last
    without = "(node) => { const copy = node.cloneNode(true); copy.querySelectorAll('%s').forEach((n) => n.remove()); return copy.textContent; }"  # noqa: E501
    assert last.evaluate(without % "del") == row["steps"][-1]["revision"]
    assert last.evaluate(without % "ins") == row["steps"][-2]["revision"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_barrier_that_axe_knows(
    visit, barriers, run: Path, report: Path, scheme: str, width: int
):
    looks = {"color_scheme": scheme, "viewport": {"width": width, "height": 844}}
    compared, _ = write_comparison((run, pipeline()), (run, pipeline(ppo={"kl_coef": 0.3})))
    # axe is injected as a script element, which the page's policy would refuse.
    pages = [visit(compared, bypass_csp=True, **looks)]
    for sort in ("revision", "comparison", "answers"):
        pages.append(visit(report, f"#show={sort}", bypass_csp=True, **looks))
    for page in pages:
        unfold(page)
        assert barriers(page) == ""


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_sticks_out_of_a_phone(visit, report: Path, width: int):
    for sort in ("revision", "comparison", "answers"):
        page = visit(report, f"#show={sort}", viewport={"width": width, "height": 700})
        unfold(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_scripts_the_numbers_stay_and_the_page_says_where_the_rows_are(visit, report: Path):
    page = visit(report, java_script_enabled=False)
    text = page.locator("body").inner_text()
    assert "On held-out red-team prompts, helpful-only answers harmfully" in text
    assert "evaluate/rows.jsonl" in text
    assert page.locator("#browser").is_hidden()
    assert page.get_by_role("img", name="Harmless Elo").is_visible()
    old = visit(report, script="delete window.DecompressionStream")
    old.get_by_text("DecompressionStream is not defined").wait_for()
    assert "evaluate/rows.jsonl" in old.locator("#no-rows").inner_text()


def test_print_has_the_chosen_row_and_no_controls(visit, run: Path, report: Path):
    row = next(row for row in rows(run, "revise") if row["steps"])
    page = visit(report, f"#row={row['key']}", viewport={"width": 673, "height": 900})
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 673  # A4 within its margins.
    assert page.locator("#list").is_hidden()
    assert page.locator("#search").is_hidden()
    assert page.locator("nav").is_hidden()
    assert page.locator("#detail").is_visible()
    assert page.locator("details.numbers").first.is_hidden()  # Closed: nothing to read there.
    assert (
        page.evaluate("getComputedStyle(document.getElementById('detail')).overflow") == "visible"
    )
    assert page.pdf(format="A4").startswith(b"%PDF")
