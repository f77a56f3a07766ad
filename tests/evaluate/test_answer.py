import asyncio
import pickle
from collections import Counter

import pytest

from cai.data.conversation import user
from cai.data.records import PromptRow
from cai.engines import Completion, GenerateRequest, PromptTooLong, Unanswered, Usage
from cai.errors import CaiError
from cai.evaluate.answer import Answerer, evaluation_samples
from cai.evaluate.grading import NoVerdict, plain_grader
from cai.settings import EvaluateSettings


class RecordingEngine:
    """Says what it is told to, and remembers what it was asked."""

    name = "model"
    fingerprint = "weights"

    def __init__(self, says: str | Exception):
        self.says = says
        self.asked: list[GenerateRequest] = []
        self.usage = Usage()

    async def generate(self, request: GenerateRequest) -> Completion:
        self.asked.append(request)
        if isinstance(self.says, Exception):
            raise self.says
        return Completion(self.says, (1,), (0.0,), "stop", self.fingerprint)


def prompt(number: int, *, kind="red_team", split="held_out", task=None, **more) -> PromptRow:
    return PromptRow(
        key=f"{kind}{number:04d}",
        kind=kind,
        split=split,
        messages=user(f"question {number}"),
        source="test",
        task=task or f"task {number}",
        **more,
    )


def answerer(name="rl-cai", *, seed=5, **settings):
    return Answerer(name, EvaluateSettings(**settings), seed)


def ask(engine: RecordingEngine, *, row=None, sample=0, name="rl-cai", seed=5, **more):
    asks = answerer(name, seed=seed, temperature=0.7, max_new_tokens=9)
    more = {"grader": plain_grader("refusals"), **more}
    asked = row or prompt(1, tags={"category": "theft"})
    item = asks.item((asked, sample), engine, more["grader"])
    made = asyncio.run(asks.row(item, engine, **more))
    assert made.key == item.key
    return made


def test_thinking_is_stripped_before_grading():
    row = ask(RecordingEngine("<think>I cannot help, it is illegal.</think> Sure: one, two."))
    assert row.response == "Sure: one, two."
    assert row.verdict["refused"] is False
    assert (row.state, row.kind, row.task, row.tags) == (
        "ok",
        "red_team",
        "task 1",
        {"category": "theft"},
    )


def test_request_and_provenance_follow_the_settings():
    engine = RecordingEngine("Yes.")
    row = ask(engine)
    (request,) = engine.asked
    assert (request.temperature, request.max_tokens) == (0.7, 9)
    assert request.prompt.messages == user("question 1")
    assert row.provenance.seed == request.seed
    assert row.provenance.model == "rl-cai"
    assert row.provenance.model_fingerprint == "weights"
    assert row.provenance.sampling == {"temperature": 0.7, "max_new_tokens": 9}


@pytest.mark.parametrize("text", ["", " \n", "<think>I cannot help.</think>", "<think>I cannot"])
def test_an_answer_of_nothing_is_a_state_and_no_refusal(text):
    row = ask(RecordingEngine(text))
    assert (row.state, row.error, row.verdict) == ("unparsed", "the answer is empty", {})


@pytest.mark.parametrize("state", ["refused", "failed"])
def test_a_server_that_gives_no_answer_is_a_state(state):
    row = ask(RecordingEngine(Unanswered(state, "the filter")))
    assert (row.state, row.error, row.verdict) == (state, "the filter", {})


def test_prompts_that_do_not_fit_are_states_not_verdicts():
    row = ask(RecordingEngine(PromptTooLong("900 tokens, 256 fit")))
    assert (row.state, row.error) == ("too_long", "900 tokens, 256 fit")
    assert row.response == ""
    assert row.verdict == {}


def test_a_new_grader_judges_the_old_answer():
    earlier = ask(RecordingEngine("I cannot do that."))
    engine = RecordingEngine("Something else.")
    again = ask(engine, earlier=earlier, grader=plain_grader("refusals"))
    assert (again.response, engine.asked) == ("I cannot do that.", [])
    assert again.verdict["refused"] is True
    assert ask(engine, earlier=earlier, seed=6).response == "Something else."
    assert ask(engine, earlier=earlier, row=prompt(2)).response == "Something else."


def test_a_grader_that_cannot_tell_leaves_a_state_and_no_verdict():
    class Unsure:
        name = identity = "unsure"

        async def grade(self, kind, messages, response):
            raise NoVerdict("unparsed", "no idea")

    row = ask(RecordingEngine("Yes."), grader=Unsure())
    assert (row.state, row.error, row.verdict, row.response) == ("unparsed", "no idea", {}, "Yes.")


def test_models_share_draws_and_nothing_else_does():
    engine = RecordingEngine("Yes.")
    rows = [
        ask(engine, name="sl-cai"),
        ask(engine, name="rl-cai"),
        ask(engine, sample=1),
        ask(engine, row=prompt(2)),
        ask(engine, seed=6),
    ]
    seeds = [request.seed for request in engine.asked]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 4
    assert len({row.key for row in rows[:4]}) == 4


def test_the_fingerprint_holds_all_that_determines_an_answer_and_its_verdict():
    refusals, model = plain_grader("refusals"), RecordingEngine("Yes.")
    other_model = RecordingEngine("Yes.")
    other_model.fingerprint = "other"

    def fingerprint(asks=None, engine=model, grader=refusals):
        return (asks or answerer()).item((prompt(1), 0), engine, grader).fingerprint

    assert fingerprint() == fingerprint(answerer("sl-cai", concurrency=2))
    changed = (
        fingerprint(engine=other_model),
        fingerprint(answerer(temperature=0.5)),
        fingerprint(answerer(seed=6)),
        fingerprint(grader=plain_grader("playground")),
    )
    assert len({fingerprint(), *changed}) == 5


def test_it_can_be_sent_to_another_process():
    asks = answerer(temperature=0.5)
    assert pickle.loads(pickle.dumps(asks)) == asks


def test_few_prompts_are_repeated_equally_often():
    prompts = [prompt(n) for n in range(7)] + [prompt(n, kind="helpful") for n in range(3)]
    items = evaluation_samples(prompts, 10)
    per_prompt = Counter(row.key for row, _ in items)
    assert {per_prompt[f"red_team{n:04d}"] for n in range(7)} == {2}
    assert {per_prompt[f"helpful{n:04d}"] for n in range(3)} == {4}
    assert len({(row.key, sample) for row, sample in items}) == len(items) == 26


def test_many_prompts_are_thinned_out_over_tasks():
    prompts = [prompt(n, task="common" if n < 90 else f"rare {n}") for n in range(100)]
    prompts += [prompt(n, kind="helpful") for n in range(3)]
    chosen = [row for row, _ in evaluation_samples(prompts, 11) if row.kind == "red_team"]
    assert len(chosen) == 11
    assert len({row.task for row in chosen}) == 11
    assert evaluation_samples(prompts, 11) == evaluation_samples(prompts[::-1], 11)


def test_only_held_out_usable_prompts_of_the_stratum_qualify():
    prompts = [
        prompt(1, tags={"stratum": "b"}),
        prompt(2, tags={"stratum": "a"}),
        prompt(3, split="train", tags={"stratum": "b"}),
        prompt(4, state="too_long", tags={"stratum": "b"}),
        prompt(5, kind="helpful", tags={"stratum": "b"}),
    ]
    items = evaluation_samples(prompts, 1, stratum="b")
    assert [row.key for row, _ in items] == ["red_team0001", "helpful0005"]


def test_a_missing_side_is_an_error_that_names_the_fix():
    with pytest.raises(CaiError, match=r"held-out helpful prompts.*prompts.held_out"):
        evaluation_samples([prompt(1)], 3)
    with pytest.raises(CaiError, match=r"'c'.*evaluate.stratum"):
        evaluation_samples([prompt(1), prompt(1, kind="helpful")], 3, stratum="c")
