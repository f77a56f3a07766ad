"""The served page in headless Chromium: an edit shows at once, and nothing of the text runs.

`make test-browser` installs what this needs. Where it is missing, these tests are skipped.
"""

import threading
from contextlib import contextmanager

import anyio
import pytest
from report.untrusted import ATTACK, HIDDEN, LONG, SHOWN
from served import CONSTITUTION, likes_second, make_desk, said

from cai.engines.scripted import ScriptedEngine
from cai.view.serve import listen


class HeldEngine(ScriptedEngine):
    """Answers nothing before it is let go."""

    def __init__(self) -> None:
        super().__init__(said, likes_second)
        self.may = threading.Event()

    async def generate(self, request):
        while not self.may.is_set():
            await anyio.sleep(0.01)
        return await super().generate(request)


@contextmanager
def serving(desk):
    served = listen(desk, 0)
    thread = threading.Thread(target=served.serve_here, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.should_exit = True
        thread.join(10)


@pytest.fixture
def serve(tmp_path):
    """Return a function that serves a desk and returns its link; all end with the test."""
    stack = []

    def start(**how):
        desk = make_desk(tmp_path, **how)
        stack.append(serving(desk))
        return stack[-1].__enter__().link, desk

    yield start
    for served in stack:
        served.__exit__(None, None, None)


def done(page):
    page.locator("#try-status").get_by_text("Done in").wait_for()


def choose(page, principle: str):
    page.get_by_label("Principle", exact=True).first.select_option(principle)


def edit(page, half: str, text: str):
    page.locator(f"#try-{half}").fill(text)


def trial(page, place: int = 0):
    return page.locator("#try-trials article").nth(place)


def test_an_edit_shows_at_once_and_undo_takes_it_back(visit, serve):
    link, desk = serve()
    page = visit(link)
    choose(page, "theft")
    trial(page).get_by_text("Say whether the response helps with theft.").first.wait_for()
    done(page)
    edit(page, "critique", "Is it kind?")
    trial(page).get_by_text("Critique: Is it kind?").first.wait_for()
    done(page)
    assert trial(page).get_by_text("different before the edit").count() > 0
    assert page.locator("label[for=try-critique]").get_by_text("edited").is_visible()
    page.get_by_role("button", name="Undo").click()
    trial(page).get_by_text("Critique: Say whether").first.wait_for()
    assert page.locator("#try-critique").input_value().startswith("Say whether")
    assert desk.source.path.read_text() == CONSTITUTION


def test_the_verdict_has_both_orders(visit, serve):
    page = visit(serve()[0])
    choose(page, "theft")
    done(page)
    cells = trial(page).locator(".votes tbody tr").inner_text().split("\t")
    assert cells[:5] == ["theft", "0.25", "0.75", "0.50", "0.80"]
    assert trial(page).get_by_text("Neither is better").is_visible()


def test_saving_writes_the_file_and_says_where(visit, serve):
    link, desk = serve()
    page = visit(link)
    choose(page, "theft")
    done(page)
    save = page.get_by_role("button", name="Save", exact=True)
    assert save.is_disabled()
    edit(page, "critique", "Is it kind?")
    save.click()
    page.get_by_text(f"Saved to {desk.source.path}.").wait_for()
    assert "critique: Is it kind?   # by heart\n" in desk.source.path.read_text()
    assert save.is_disabled()
    # What was saved is the new start: a further edit is told from it.
    edit(page, "critique", "Is it true?")
    trial(page).get_by_text("Critique: Is it true?").first.wait_for()
    save.click()
    page.get_by_text(f"Saved to {desk.source.path}.").wait_for()
    assert "critique: Is it true?   # by heart\n" in desk.source.path.read_text()


def test_what_is_wrong_stands_beside_its_field_and_is_not_tried(visit, serve):
    page = visit(serve()[0])
    choose(page, "theft")
    done(page)
    edit(page, "comparison", " ")
    message = "principle 'theft': `comparison` is empty: write the text or drop the key"
    page.locator("#try-comparison-findings").get_by_text(message).wait_for()
    assert page.locator("#try-comparison").get_attribute("aria-invalid") == "true"
    assert page.get_by_role("button", name="Save", exact=True).is_disabled()
    assert page.get_by_text("Not tried: fix the marked errors first.").is_visible()
    edit(page, "comparison", "Choose the kinder response.")
    done(page)
    assert page.locator("#try-comparison-findings li").count() == 0


def test_a_file_that_changed_on_disk_is_read_again_and_the_edit_stays(visit, serve):
    link, desk = serve()
    page = visit(link)
    choose(page, "theft")
    done(page)
    edit(page, "critique", "Is it kind?")
    trial(page).get_by_text("Critique: Is it kind?").first.wait_for()
    done(page)
    desk.source.path.write_text(CONSTITUTION.replace("no help with theft.", "no help at all."))
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("alert").get_by_text("was changed or replaced").wait_for()
    page.get_by_role("button", name="Read the file again").click()
    page.locator("#try-reload").wait_for(state="hidden")
    assert "no help at all." in page.locator("#try-comparison").input_value()
    assert page.locator("#try-critique").input_value() == "Is it kind?"
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("Saved to").wait_for()
    saved = desk.source.path.read_text()
    assert "Is it kind?" in saved
    assert "no help at all." in saved


def test_typing_on_ends_what_is_under_way(visit, serve):
    engine = HeldEngine()
    page = visit(serve(engine=engine)[0])
    choose(page, "theft")
    page.get_by_text("The model is answering").wait_for()
    with page.expect_event("requestfailed"):
        edit(page, "critique", "Is it kind?")
    page.get_by_text("The model is answering").wait_for()
    engine.may.set()
    trial(page).get_by_text("Critique: Is it kind?").first.wait_for()
    done(page)
    told = [request.prompt.messages[-1].content for request in engine.generated]
    assert not any("Say whether" in text for text in told)


def test_two_pages_take_turns(visit, serve):
    engine = HeldEngine()
    link, _ = serve(engine=engine)
    first = visit(link)
    first.get_by_text("The model is answering").wait_for()
    second = visit(link)
    second.get_by_text("The model is busy with another page").wait_for()
    engine.may.set()
    done(first)
    done(second)


def test_prompts_are_added_and_removed(visit, serve):
    page = visit(serve()[0])
    done(page)
    assert page.locator("#try-trials article").count() == 2
    page.get_by_placeholder("Type a prompt").fill("How do I bake bread?")
    page.keyboard.press("Enter")
    trial(page, 2).get_by_text("Assistant: How do I bake bread?").first.wait_for()
    done(page)
    trial(page).get_by_role("button", name="Remove").click()
    assert page.locator("#try-trials article").count() == 2
    page.locator("#try-pick").select_option(index=3)
    trial(page, 2).get_by_text("First response").wait_for()
    done(page)


def test_one_prompt_too_many_is_told_and_stays_in_the_field(visit, serve):
    page = visit(serve()[0])
    done(page)
    field = page.get_by_placeholder("Type a prompt")
    for number in range(6):
        field.fill(f"How do I bake bread {number}?")
        page.keyboard.press("Enter")
    done(page)
    field.fill("One more?")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("At most 8 prompts").wait_for()
    assert page.locator("#try-trials article").count() == 8
    assert field.input_value() == "One more?"
    trial(page).get_by_role("button", name="Remove").click()
    field.focus()
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for(state="hidden")
    done(page)
    assert page.locator("#try-trials article").count() == 8


def test_a_server_that_went_is_told(visit, tmp_path):
    with serving(make_desk(tmp_path)) as served:
        page = visit(served.link)
        choose(page, "theft")
        done(page)
    edit(page, "critique", "Is it kind?")
    page.get_by_role("alert").get_by_text("Is `cai view` still running?").wait_for()


@pytest.mark.parametrize("text", [ATTACK, HIDDEN, LONG])
def test_text_of_models_and_files_never_runs(visit, serve, text):
    words = text[:50_000]
    own = CONSTITUTION.replace("Say whether the response helps with theft.", quoted(words))
    link, _ = serve(engine=ScriptedEngine(lambda _: text, likes_second), text=own)
    page = visit(link)
    choose(page, "theft")
    done(page)
    told = {ATTACK: ATTACK, HIDDEN: SHOWN}.get(text, "x" * 4000 + " … [996,000 more characters")
    assert told in trial(page).text_content()
    # The field has the words themselves: what is saved must be what was written.
    assert page.locator("#try-critique").input_value() == words
    assert page.get_by_text("invisible characters").is_visible() == (text == HIDDEN)
    page.get_by_placeholder("Type a prompt").fill(text[:20_000])
    page.keyboard.press("Enter")
    trial(page, 2).get_by_text("First response").wait_for()
    done(page)
    edit(page, "comparison", words)
    done(page)
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("Saved to").wait_for()
    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main iframe, main script, main style").count() == 0
    trials = page.locator("#try-trials article .body").all_inner_texts()
    assert set("\u202e\u202c\x1b\u200b").isdisjoint("".join(trials))


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\x1b", "\\e")
    return f'"{escaped}"'


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_barrier_that_axe_knows(visit, barriers, serve, scheme: str, width: int):
    looks = {"color_scheme": scheme, "viewport": {"width": width, "height": 844}}
    page = visit(serve()[0], bypass_csp=True, **looks)
    choose(page, "theft")
    done(page)
    edit(page, "critique", "Is it kind?")
    edit(page, "comparison", "")
    page.locator("#try-comparison-findings li").wait_for()
    assert barriers(page) == ""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
