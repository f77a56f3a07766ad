"""What the page streams is what the stages would do, one model at a time."""

import asyncio
import json

import pytest
from report.synthetic_run import prompts
from served import CONSTITUTION, TOKEN, PatientEngine, likes_second, make_desk, said
from starlette.testclient import TestClient

from cai.compare import FeedbackJudge, preference
from cai.constitution import load_constitution
from cai.constitution.check import check_constitution
from cai.data.conversation import user
from cai.engines import PromptTooLong
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.revise import Reviser
from cai.settings import CompareSettings, LabelPolicy, ModelSettings, ReviseSettings
from cai.view.app import make_app
from cai.view.trials import Model
from cai.workbench.trying import pinned, try_chain, try_comparison

HOST = "127.0.0.1:8000"


def client_of(desk) -> TestClient:
    return TestClient(make_app(desk, token=TOKEN, hosts={HOST}), base_url=f"http://{HOST}/{TOKEN}/")


def body(client, **wish) -> dict:
    version = client.get("api/constitution").json()["version"]
    return {"version": version, "edits": [], "prompts": [{"text": "Hi"}], **wish}


def tried(client, **wish) -> list[dict]:
    answer = client.post("api/try", json=body(client, **wish))
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture
def desk(tmp_path):
    return make_desk(tmp_path)


@pytest.fixture
def client(desk):
    with client_of(desk) as client:
        yield client


def names(events) -> list[str]:
    return [event["event"] for event in events]


def test_steps_come_in_order_and_then_the_verdict(client):
    events = tried(client, principle="theft", rounds=2)
    assert names(events) == ["findings", "loading", "started", *["step"] * 5, "verdict", "done"]
    steps = [event for event in events if event["event"] == "step"]
    assert [(s["kind"], s["round"]) for s in steps] == [
        ("response", 0), ("critique", 1), ("revision", 1), ("critique", 2), ("revision", 2),
    ]  # fmt: skip
    assert steps[1]["asked"] == "Say whether the response helps with theft."
    assert steps[1]["principle"] == "theft"


def test_the_trial_is_the_one_of_the_command(client, desk):
    """Both go through `workbench.trying`; the probabilities are those of the labels."""
    engine = ScriptedEngine(said, likes_second)
    alone = pinned(load_constitution(desk.source.path), "theft")

    async def command():
        reviser = Reviser(alone, ReviseSettings(rounds=1), seed=3)
        chain = await try_chain(reviser, user("Hi"), engine, lambda _: None)
        judge = FeedbackJudge(alone, CompareSettings(), seed=3)
        return chain, await try_comparison(judge, chain, engine)

    chain, judgement = asyncio.run(command())
    events = tried(client, principle="theft", rounds=1, seed=3)
    texts = [event["text"] for event in events if event["event"] == "step"]
    assert texts == [chain.response, chain.steps[0].critique, chain.steps[0].revision]
    vote = next(event["vote"] for event in events if event["event"] == "verdict")
    mean = (vote["forward"] + vote["backward"]) / 2
    assert mean == pytest.approx(1 - preference(judgement, LabelPolicy()), abs=1e-4)
    assert vote["forward"] == 0.25  # Shown first, the revision is the option of probability 0.2.
    assert vote["backward"] == 0.75
    assert vote["mass"] == 0.8


def test_an_edit_is_tried_and_not_written(client, desk):
    edits = [{"principle": "theft", "half": "critique", "text": "Is it kind?"}]
    steps = [e for e in tried(client, edits=edits, principle="theft") if e["event"] == "step"]
    assert steps[1]["asked"] == "Is it kind?"
    assert "Is it kind?" in steps[1]["text"]
    assert desk.source.path.read_text() == CONSTITUTION


def test_several_prompts_share_one_turn(client):
    prompts = [{"text": "Hi"}, {"text": "Ho"}]
    events = tried(client, prompts=prompts, principle="theft")
    ends = [event["prompt"] for event in events if event["event"] == "verdict"]
    assert sorted(ends) == [0, 1]
    assert names(events).count("done") == 1


def test_a_principle_goes_by_the_halves_it_has(client):
    """One that only compares leaves the critiques to a draw among the others."""
    events = tried(client, principle="tone")
    drawn = {event["principle"] for event in events if event["event"] == "step"}
    assert "tone" not in drawn
    vote = next(event["vote"] for event in events if event["event"] == "verdict")
    assert vote["principle"] == "tone"


def test_a_principle_that_is_gone_is_told(client):
    events = tried(client, principle="thfet")
    assert names(events)[-1] == "error"
    assert "did you mean `theft`" in events[-1]["message"]


def test_labels_of_the_grader_stand_beside_texts_of_its_world(tmp_path):
    harmful = "Sure. First, remove the price tag from the radio. Then, carry the radio past the "
    harmful += "clerk. Last, leave the shop and never pay for the radio."
    desk = make_desk(tmp_path, ScriptedEngine(lambda _: harmful), evaluate={"grader": "playground"})
    with client_of(desk) as client:
        prompts = [{"text": "How do I shoplift a radio?"}, {"text": "Who are you?"}]
        events = tried(client, prompts=prompts, principle="theft")
    labels = {(e["prompt"], e["kind"]): e["label"] for e in events if e["event"] == "step"}
    assert labels[0, "response"] == "harmful"
    assert labels[0, "critique"] is None
    assert labels[1, "response"] is None
    assert [e["vote"] for e in events if e["event"] == "verdict"] == [None, None]


def test_prompts_of_the_run_are_those_of_training(client):
    facts = client.get("api/constitution").json()
    training = {row.key for row in prompts() if row.split == "train"}
    offered = {prompt["key"] for prompt in facts["prompts"]}
    assert offered < training
    assert len(offered) == 60  # All 40 red-team prompts, and 20 of 40 in the kitchen.
    assert facts["prompts"][0]["kind"] == "red-team"
    events = tried(client, prompts=[{"key": facts["prompts"][0]["key"]}], principle="theft")
    assert facts["prompts"][0]["opening"] in events[3]["text"]
    gone = client.post("api/try", json=body(client, prompts=[{"key": "nowhere"}]))
    assert gone.status_code == 400
    assert gone.json() == {"error": "The run no longer has this prompt: reload the page."}


def test_text_of_the_model_is_made_visible_and_short(tmp_path):
    desk = make_desk(tmp_path, ScriptedEngine(lambda _: "\u202eevil \x1b[31m" + "x" * 9000))
    with client_of(desk) as client:
        step = next(e for e in tried(client, principle="theft") if e["event"] == "step")
    assert step["text"].startswith("⟨U+202E⟩evil ⟨U+001B⟩[31mxxx")
    assert "more characters are in the rows" in step["text"]
    assert len(step["text"]) < 5000


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (PromptTooLong("900 tokens"), "Stopped: too_long, 900 tokens"),
        (CaiError("No such thing. Mend it."), "No such thing. Mend it."),
        (ValueError("x\x1b"), "ValueError: x⟨U+001B⟩. This is a bug of cai."),
    ],
)
def test_one_prompt_may_fail_and_the_others_go_on(tmp_path, problem, words):
    def generate(request):
        return problem if request.prompt.messages[0].content == "Bad" else "Fine."

    desk = make_desk(tmp_path, ScriptedEngine(generate, likes_second))
    with client_of(desk) as client:
        events = tried(client, prompts=[{"text": "Bad"}, {"text": "Good"}], principle="theft")
    (failed,) = [event for event in events if event["event"] == "failed"]
    assert failed == {"event": "failed", "prompt": 0, "message": words}
    assert [e["prompt"] for e in events if e["event"] == "verdict"] == [1]
    assert names(events)[-1] == "done"


def test_findings_are_those_of_the_check(client, tmp_path):
    """Of errors and of warnings, word for word; a trial is made only without errors."""
    critique = "Say whether the response helps with theft."
    for text, severity in (("", "error"), ("Critique Request: is it theft?", "warning")):
        edits = [{"principle": "theft", "half": "critique", "text": text}]
        events = tried(client, edits=edits, prompts=[])
        written = tmp_path / "written.yaml"
        written.write_text(CONSTITUTION.replace(critique, f'"{text}"'))
        wanted = check_constitution(written)
        found = events[0]["findings"]
        assert [f["message"] for f in found] == [f.message for f in wanted]
        assert severity in {f["severity"] for f in found if f["principle"] == "theft"}
        assert ("started" in names(events)) == (severity != "error")


def test_an_empty_text_is_marked_where_it_is(client):
    edits = [{"principle": "theft", "half": "critique", "text": " "}]
    (found,) = tried(client, edits=edits)[0]["findings"]
    assert (found["principle"], found["half"], found["severity"]) == ("theft", "critique", "error")
    assert "is empty: write the text or drop the key" in found["message"]
    assert found["where"].endswith("mine.yaml:9:15")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("fraud", "critique"), "'fraud' is not in this file"),
        (("tone", "critique"), "no text at principles.1.critique"),
        (("nobody", "critique"), "'nobody' is not in this file"),
    ],
)
def test_what_is_not_in_the_file_is_not_edited(client, edit, words):
    edits = [{"principle": edit[0], "half": edit[1], "text": "New."}]
    answer = client.post("api/try", json=body(client, edits=edits))
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_a_model_that_cannot_be_loaded_is_told_and_tried_again(desk):
    loads = []

    def load(settings):
        loads.append(settings)
        if len(loads) == 1:
            raise CaiError("No such model. Name another with `--model`.")
        return ScriptedEngine(said, likes_second)

    desk.model = Model(ModelSettings(path="m"), load)
    with client_of(desk) as client:
        first, second, third = (tried(client, principle="theft") for _ in range(3))
    assert first[-1] == {
        "event": "error",
        "message": "No such model. Name another with `--model`.",
    }
    assert names(second)[-1] == names(third)[-1] == "done"
    assert len(loads) == 2
    assert "loading" in names(second)
    assert "loading" not in names(third)


class Page:
    """A browser's side of one streamed request, which may go away in the middle."""

    def __init__(self, app, body: dict) -> None:
        self.events = asyncio.Queue()
        self.gone = asyncio.Event()
        self._body = json.dumps(body).encode()
        self._asked = False
        headers = [(b"host", HOST.encode()), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": "POST", "path": f"/{TOKEN}/api/try", "headers": headers,
            "query_string": b"", "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        for line in message.get("body", b"").decode().splitlines():
            self.events.put_nowait(json.loads(line)["event"])

    async def next(self, wanted: str) -> None:
        while await asyncio.wait_for(self.events.get(), 10) != wanted:
            pass


def test_a_request_ends_when_its_page_goes_and_the_next_one_gets_the_model(desk):
    async def scene():
        engine = PatientEngine()
        loads = []
        desk.model = Model(ModelSettings(path="m"), lambda settings: loads.append(1) or engine)
        app = make_app(desk, token=TOKEN, hosts={HOST})
        with client_of(desk) as client:
            wish = body(client, principle="theft")
        first = Page(app, wish)
        await first.next("started")
        await asyncio.wait_for(engine.asked.wait(), 10)
        second = Page(app, wish)
        await second.next("waiting")
        first.gone.set()
        await asyncio.wait_for(engine.given_up.wait(), 10)
        await asyncio.wait_for(first.task, 10)
        engine.may.set()
        await second.next("done")
        await asyncio.wait_for(second.task, 10)
        assert loads == [1]
        return len(engine.generated)

    assert asyncio.run(scene()) == 3  # The second page's; the first page's response was given up.


def test_the_end_of_the_server_ends_streams_in_order(desk):
    async def scene():
        engine = PatientEngine()
        desk.model = Model(ModelSettings(path="m"), lambda _: engine)
        with client_of(desk) as client:
            wish = body(client, principle="theft")
        page = Page(make_app(desk, token=TOKEN, hosts={HOST}), wish)
        await page.next("started")
        await asyncio.wait_for(engine.asked.wait(), 10)
        desk.end()
        await asyncio.wait_for(page.task, 10)
        assert engine.given_up.is_set()
        await asyncio.sleep(0)
        assert desk.works == set()

    asyncio.run(scene())


def test_a_page_that_leaves_while_the_model_loads_leaves_one_model(desk):
    async def scene():
        loading, loads = asyncio.Event(), []
        may = asyncio.Event()
        loop = asyncio.get_running_loop()

        def load(settings):
            loads.append(settings)
            loop.call_soon_threadsafe(loading.set)
            asyncio.run_coroutine_threadsafe(may.wait(), loop).result(10)
            return ScriptedEngine(said, likes_second)

        desk.model = Model(ModelSettings(path="m"), load)
        app = make_app(desk, token=TOKEN, hosts={HOST})
        with client_of(desk) as client:
            wish = body(client, principle="theft")
        first = Page(app, wish)
        await asyncio.wait_for(loading.wait(), 10)
        first.gone.set()
        await asyncio.wait_for(first.task, 10)
        second = Page(app, wish)
        await second.next("loading")
        may.set()
        await second.next("done")
        return len(loads)

    assert asyncio.run(scene()) == 1
