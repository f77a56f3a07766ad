"""What is sampled from a policy, and what is chosen from the samples."""

import asyncio
import math

import pytest
from plain_runs import red_team_prompts

from cai.data.conversation import user
from cai.data.records import Provenance, SampledResponse, SamplesRow
from cai.engines import PromptTooLong, Unanswered
from cai.engines.scripted import ScriptedEngine
from cai.samples.choosing import pairs, selected, tally
from cai.samples.drawing import Sampler
from cai.settings import PairSettings, SampleSettings, SelectSettings

PROVENANCE = Provenance(model="m", model_fingerprint="f", template_hash="", sampling={}, seed=0)


def row_of(*scores, by="preference", texts=None):
    """A row whose samples are called by their place: a, b, c, …"""
    texts = texts or "abcdefghijklmnop"
    return SamplesRow(
        key="k",
        kind="red_team",
        messages=user("Why?"),
        task="t",
        samples=[
            SampledResponse(text=text, ended=True, score=score)
            for text, score in zip(texts, scores, strict=False)
        ],
        scored_by=by,
        provenance=PROVENANCE,
    )


def texts(samples):
    return "".join(sample.text for sample in samples)


@pytest.mark.parametrize(
    ("scores", "settings", "kept"),
    [
        ((0, 3, 1, 2), {"share": 0.5}, "bd"),
        ((0, 3, 1, 2), {"share": 0.25}, "b"),
        ((0, 3, 1, 2), {"share": 0.01}, "b"),  # at least one
        ((0, 3, 1, 2), {"share": 1}, "bdca"),
        ((0, 3, 1, 2), {"share": 1, "most": 3}, "bdc"),
        ((0, 3, 1, 2), {"share": 1, "above": 1}, "bd"),
        ((-5, -3), {"share": 0.5, "above": 0}, ""),
        ((1, 1, 1, 1), {"share": 0.5}, "ab"),  # ties keep their order
        ((None, 3, None, 2), {"share": 0.5}, "bd"),  # the share counts all samples
        ((None, 3, None, None), {"share": 0.5}, "b"),
        ((None, None), {"share": 1}, ""),
        ((1, 0, 1, 0), {"share": 1, "above": 0.5}, "ac"),  # of a grader: those that are right
    ],
)
def test_the_best_of_a_prompt_are_selected(scores, settings, kept):
    assert texts(selected(row_of(*scores), SelectSettings(**settings))) == kept


def test_a_text_is_selected_once_and_neither_cut_off_nor_empty_ones_are():
    row = row_of(1, 1, 5, 9, texts=["same", "same", "", "cut"])
    row.samples[3].ended = False
    assert texts(selected(row, SelectSettings(share=1))) == "same"
    assert tally([row]) == {"usable": 2, "empty": 1, "cut_off": 1}


def test_pairs_are_best_against_worst_with_the_probability_of_the_difference():
    made = pairs(row_of(0, 3, 1, 2.5), PairSettings(pairs_per_prompt=5))
    assert [one.responses for one in made] == [("b", "a"), ("d", "c")]
    assert [one.label for one in made] == pytest.approx([1 / (1 + math.exp(-d)) for d in (3, 1.5)])
    assert len({one.key for one in made}) == 2


def test_graders_give_pairs_of_right_and_wrong_with_certain_labels():
    made = pairs(row_of(1, 0, 1, 1, 0, by="playground"), PairSettings(pairs_per_prompt=9))
    assert [(one.responses, one.label) for one in made] == [(("a", "e"), 1.0), (("c", "b"), 1.0)]


@pytest.mark.parametrize(
    ("scores", "margin", "count"),
    [((1, 1), 0, 0), ((1, 2), 0, 1), ((1, 2), 1, 0), ((1, 2), 0.9, 1), ((1,), 0, 0), ((), 0, 0)],
)
def test_pairs_need_a_difference(scores, margin, count):
    assert len(pairs(row_of(*scores), PairSettings(margin=margin))) == count


def sample(engine, **settings):
    sampler = Sampler(SampleSettings(**settings), "sl-cai", seed=3)
    (item,) = sampler.items(red_team_prompts(1), engine)
    return item, asyncio.run(sampler.row(item, engine))


def test_every_sample_has_a_draw_of_its_own_and_thinking_is_left_out():
    engine = ScriptedEngine(lambda request: f"<think>hm</think>{request.seed}")
    _, row = sample(engine, samples=5, temperature=0.7, max_new_tokens=9)
    assert len({one.text for one in row.samples}) == 5
    assert all(one.text.isdigit() for one in row.samples)
    assert {(r.temperature, r.max_tokens) for r in engine.generated} == {(0.7, 9)}


def test_another_policy_of_the_run_has_other_draws_and_equal_keys():
    engine = ScriptedEngine(lambda request: str(request.seed))
    found = {}
    for policy in ("sl-cai", "rest-1"):
        sampler = Sampler(SampleSettings(samples=2), policy, seed=3)
        (item,) = sampler.items(red_team_prompts(1), engine)
        found[policy] = item, asyncio.run(sampler.row(item, engine))
    (one, first), (other, second) = found.values()
    assert one.key == other.key
    assert one.fingerprint != other.fingerprint
    assert not {s.text for s in first.samples} & {s.text for s in second.samples}


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (PromptTooLong("long"), "too_long"),
        (Unanswered("refused", "no"), "refused"),
        (Unanswered("failed", "no"), "failed"),
        ("", "unparsed"),
        ("<think>only", "unparsed"),
        ("yes", "ok"),
    ],
)
def test_what_cannot_be_sampled_is_a_state(said, state):
    _, row = sample(ScriptedEngine(lambda _: said))
    assert row.state == state
    assert bool(row.error) == (state != "ok")


def test_only_training_prompts_are_sampled_and_of_each_kind_at_most_so_many():
    prompts = red_team_prompts(6)
    prompts[0].split = "held_out"
    prompts[1].state = "too_long"
    prompts[2].kind = "helpful"
    sampler = Sampler(SampleSettings(prompts=2), "sl-cai", 0)
    chosen = sampler.items(prompts, ScriptedEngine(lambda _: ""))
    assert [item.inputs.key for item in chosen] == ["03", "04", "02"]
