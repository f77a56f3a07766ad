"""`cai why`: the prompts shown are the ones that were sent."""

import dataclasses

import pytest
from plain_runs import run_of
from stored_run import CONSTITUTION, PRINCIPLES, engine, made, said, scored, write_run
from typer.testing import CliRunner

from cai.cli import app
from cai.cli.why import Templates, models_by_name
from cai.compare import FeedbackJudge, instead_of
from cai.data.records import ComparisonRow
from cai.engines import GenerateRequest, PromptTooLong, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import CaiError
from cai.revise import Reviser
from cai.workbench.effects import read_run
from cai.workbench.tracing import trace


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracing") / "run"
    return read_run(folder, write_run(folder, 6, principles=3, reasoning=True))


def remake(maker, item, asked):
    """Make a row with an engine that remembers what it was asked."""
    (row,) = made(maker, [item], asked)
    return row


def reviser(run):
    return Reviser(CONSTITUTION, run.revise, seed=0)


def judge(run):
    return FeedbackJudge(CONSTITUTION, run.compare, seed=0)


def chain_item(run, key):
    items = reviser(run).items(run.prompts, engine())
    return next(item for item in items if item.key == key)


def requests(origin):
    return [asked.request for asked in origin.asked]


def test_a_chain_shows_what_its_model_was_asked(run):
    for row in run.chains:
        origin = trace(run, CONSTITUTION, row.key)
        asked = engine()
        remake(reviser(run), chain_item(run, row.key), asked)
        assert requests(origin) == asked.generated
        assert origin.current is True
        texts = [row.response]
        texts += [text for step in row.steps for text in (step.critique, step.revision)]
        assert [a.answer for a in origin.asked] == texts


def test_a_judgement_shows_both_orders_and_the_raw_numbers(run):
    row = run.judgements[0]
    origin = trace(run, CONSTITUTION, row.key)
    (pair,) = (pair for pair in run.pairs if pair.key == row.pair)
    asked = engine()
    items = judge(run).items([pair], asked)
    item = next(item for item in items if item.key == row.key)
    remake(judge(run), item, asked)
    assert requests(origin)[::2] == asked.generated
    assert requests(origin)[1::2] == asked.scored
    assert origin.asked[3].answer == row.evidence[1].logprobs
    assert origin.asked[0].answer == row.evidence[0].reasoning
    assert origin.title == f"judgement under {row.principle.id}"


@pytest.mark.parametrize(
    "compare",
    [
        {"form": "rating"},
        {"form": "critique"},
        {"reasoning": True, "reasoning_samples": 2},
        {"form": "ranking", "reasoning": True, "few_shot_principles": "drawn"},
    ],
)
def test_every_form_of_feedback_is_traced_request_by_request(tmp_path, compare):
    chosen = write_run(tmp_path / "run", 3, **compare)
    run = read_run(tmp_path / "run", chosen)
    row = next(row for row in run.judgements if row.pair == "pair1")
    origin = trace(run, CONSTITUTION, row.key)
    items = run.judgement_items(CONSTITUTION)
    asked = engine()
    remake(judge(run), next(i for i in items if i.key == row.key), asked)
    requests_of = {True: asked.generated, False: asked.scored}
    for generated, expected in requests_of.items():
        kind = GenerateRequest if generated else ScoreRequest
        assert [r for r in requests(origin) if isinstance(r, kind)] == expected
    assert all(a.answer is not None for a in origin.asked)
    assert origin.current is True
    if compare.get("form") == "rating":
        label = next(row for row in run.comparisons if row.judgements == [origin.row.key])
        (vote,) = trace(run, CONSTITUTION, label.key).votes
        assert all(1 <= grade <= 7 for grade in vote.grades)


def test_a_verdict_of_the_fallback_judge_says_so(run):
    item = run.judgement_items(CONSTITUTION)[0]
    first = next(j for j in run.judgements if j.key == item.key)
    (again,) = instead_of([item], [first])
    row = remake(judge(run), again, engine())
    row = row.model_copy(update={"fingerprint": again.fingerprint})
    with_fallback = type(run)(**{**vars(run), "fallback": [row]})
    origin = trace(with_fallback, CONSTITUTION, row.key)
    assert origin.title.endswith("of the fallback judge")
    assert origin.current is True
    assert all(a.answer is not None for a in origin.asked)


def test_a_label_shows_its_votes_and_all_that_it_was_made_of(run):
    row = next(row for row in run.comparisons if row.state == "ok")
    origin = trace(run, CONSTITUTION, row.key)
    assert origin.current is True
    assert [source.row.key for source in origin.sources[1:]] == row.judgements
    assert len(origin.votes) == 3
    assert all(vote.counted for vote in origin.votes)
    strict = run.compare.model_copy(
        update={"labels": run.compare.labels.model_copy(update={"ignore_within": 0.5})}
    )
    sections = {**run.settings.sections, "compare": strict}
    edited = dataclasses.replace(
        run, settings=run.settings.model_copy(update={"sections": sections})
    )
    again = trace(edited, CONSTITUTION, row.key)
    assert again.current is False
    assert not any(vote.counted for vote in again.votes)


def test_rows_made_under_other_words_are_told(run):
    words = {"comparison": "Other.", "critique": "Other."}
    others = tuple(p.model_copy(update=words) for p in PRINCIPLES)
    other = CONSTITUTION.model_copy(update={"principles": others})
    assert trace(run, other, run.judgements[0].key).current is False
    chain = next(row for row in run.chains if row.steps)
    assert trace(run, other, chain.key).current is False


def fail_at(number, with_what):
    """An engine whose answer of that number is something else."""
    count = iter(range(100))
    return ScriptedEngine(lambda r: with_what if next(count) == number else said(r), scored)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("with_what", ["", PromptTooLong("too long")])
def test_a_chain_that_failed_is_shown_up_to_where_it_failed(run, number, with_what):
    chain = next(row for row in run.chains if row.steps)
    asked = fail_at(number, with_what)
    row = remake(reviser(run), chain_item(run, chain.key), asked)
    assert row.state in ("unparsed", "too_long")
    failed = type(run)(**{**vars(run), "chains": [row]})
    origin = trace(failed, CONSTITUTION, row.key)
    # A critique whose revision failed is not in the row, so its request is the last to be shown.
    held = 0 if number == 0 else 1 + (number - 1) // 2 * 2
    assert requests(origin) == asked.generated[: held + 1]
    assert [a.answer is None for a in origin.asked] == [False] * held + [True]


def test_keys_may_be_short_but_not_ambiguous(run):
    key = run.judgements[0].key
    assert trace(run, CONSTITUTION, key[:8]).row.key == key
    with pytest.raises(CaiError, match="has no row with the key 'abc'"):
        trace(run, CONSTITUTION, "abc")
    with pytest.raises(CaiError, match=r"rows of .* begin with 'pair'"):
        trace(run, CONSTITUTION, "pair")


def test_a_label_of_a_person_has_no_prompts(run):
    human = ComparisonRow(
        key="human1",
        kind="helpful",
        source="human",
        messages=run.pairs[0].messages,
        task="t",
        responses=("a", "b"),
        label=0.9,
    )
    origin = trace(type(run)(**{**vars(run), "comparisons": [human]}), CONSTITUTION, "human1")
    assert (origin.asked, origin.sources) == ([], [])


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["why", *map(str, arguments)])


def test_the_command_prints_prompts_numbers_policy_and_result(run):
    row = next(row for row in run.comparisons if row.state == "ok")
    judgement = next(j for j in run.judgements if j.key == row.judgements[0])
    result = invoke(run.folder, row.key)
    assert result.exit_code == 0, result.stderr
    for words in (
        f"label  {row.key}",
        "kind soft, orders average",
        f"{row.label:.4f} = P(response 0 is better)",
        f"judgement under {judgement.principle.id}",
        f"by rule {judgement.principle.id.removeprefix('p')}?",
        f"log P(A) = {judgement.evidence[0].logprobs[0]:.4f}",
        "Assistant: Let's think step by step: ",
        "by the row's fingerprint they are those that were sent",
    ):
        assert words in result.stdout
    brief = invoke(run.folder, row.key, "--no-prompts").stdout
    assert "Let's think" not in brief
    assert "log P(A)" in brief
    assert "Beware" not in brief
    assert invoke(run.folder, "nothing").exit_code == 1


def test_exact_prompts_are_written_by_the_models_own_template(run, tmp_path):
    """The playground's template writes transcripts; each name in the rows finds its model."""
    row = next(row for row in run.chains if row.steps)
    origin = trace(run, CONSTITUTION, row.key)
    data = {**run.settings.model_dump(mode="json"), "models": {"helpful": {"path": "playground"}}}
    opened = run_of({**data, "constitution": "playground"}, tmp_path)
    templates = Templates(models_by_name(opened))
    for name in ("playground", "helpful-only"):
        asked = dataclasses.replace(origin.asked[1], model=name)
        written = templates.write(asked)
        assert written.endswith(f"Critique Request: {request_of(row)}\n\nCritique:")


def request_of(row):
    return next(p.critique for p in PRINCIPLES if p.id == row.steps[0].principle.id)
