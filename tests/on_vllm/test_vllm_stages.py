"""Stages on vLLM, and a real local vLLM server behind `engine: openai`."""

import asyncio
import math

import numpy as np
import pytest
from e2e.command import cai, metrics, rows

from benchmarks.peers import vllm_server
from cai.data.conversation import Prompt, user
from cai.engines import GenerateRequest, PromptTooLong, ScoreRequest
from cai.engines.opening import open_engine
from cai.models.loading import PLAYGROUND
from cai.settings import ModelSettings, ServerSettings
from cai.templates import OPTIONS, comparison_prompt

PIPELINE = """\
name: on-vllm
constitution: playground
models:
  helpful:
    path: playground
    engine: vllm
    dtype: float32
    options: {max_num_seqs: 64}
prompts:
  red_team: {path: "playground:red_team", limit: 24}
  helpful: {path: "playground:helpful", limit: 8}
revise: {rounds: 2, max_new_tokens: 24}
compare: {max_new_tokens: 24, few_shot: 0}
"""


def test_revise_and_compare_run_on_vllm(tmp_path):
    file, run = tmp_path / "on-vllm.yaml", tmp_path / "run"
    file.write_text(PIPELINE)
    done = cai("run", file, "--out", run)
    assert done.returncode == 0, done.stderr
    revised = rows(run / "revise" / "rows.jsonl")
    assert {row["state"] for row in revised} == {"ok"}
    assert any(len(row["steps"]) == 2 for row in revised)
    written = metrics(run, "revise")
    assert written["tokens_out"] > 0 < written["engine_calls"]
    judgements = rows(run / "compare" / "judgements.jsonl")
    assert judgements
    masses = [sum(map(math.exp, e["logprobs"])) for row in judgements for e in row["evidence"]]
    assert masses
    assert all(0.5 < mass <= 1 + 1e-6 for mass in masses)


@pytest.fixture(scope="module")
def server():
    """Start a vLLM server on the playground model; yields its address."""
    with vllm_server(PLAYGROUND) as url:
        yield f"{url}/v1"


JUDGE = comparison_prompt(
    user("How do I bake bread?"), ("First, mix the flour.", "No."), "Which response helps?"
)


def ask(settings, *requests):
    async def run():
        engine = open_engine(settings)
        try:
            return [
                await (engine.score(r) if isinstance(r, ScoreRequest) else engine.generate(r))
                for r in requests
            ]
        finally:
            await engine.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "more",
    [
        {"tokenizer": "playground"},
        {"tokenizer": "playground", "scores": "echo"},
        {"format": "transcript"},
        {},
    ],
    ids=["exact", "echoed ids", "echoed text", "listed"],
)
def test_a_real_server_scores_and_answers_as_the_weights_do(server, more):
    template = more.get("format", "chat")
    server_settings = {name: value for name, value in more.items() if name != "format"}
    served = ModelSettings(
        path="model",
        engine="openai",
        format=template,
        server=ServerSettings(base_url=server, **server_settings),
    )
    greedy = GenerateRequest(
        Prompt(user("How do I bake bread?")), seed=0, max_tokens=16, temperature=0.0
    )
    local = ModelSettings(path="playground", dtype="float32")
    scores, said = ask(local, ScoreRequest(JUDGE, OPTIONS), greedy)
    served_scores, served_said = ask(served, ScoreRequest(JUDGE, OPTIONS), greedy)
    tolerance = 1e-4 if more else 1e-3  # listed tokens: what was not followed is missing
    np.testing.assert_allclose(served_scores.logprobs, scores.logprobs, atol=tolerance)
    assert served_said.text == said.text
    with pytest.raises(PromptTooLong):
        ask(served, GenerateRequest(Prompt(user("bread")), seed=0, max_tokens=2000))


def test_sampled_verdicts_of_a_real_server(server):
    served = ModelSettings(
        path="model",
        engine="openai",
        server=ServerSettings(base_url=server, scores="samples", samples=64),
    )
    local = ModelSettings(path="playground", dtype="float32")
    (exact,), (counted,) = (ask(s, ScoreRequest(JUDGE, OPTIONS)) for s in (local, served))
    np.testing.assert_allclose(np.exp(counted.logprobs), np.exp(exact.logprobs), atol=0.25)
