"""Decoding steps of rounded sizes, as CUDA graphs repeat them, against steps of the exact sizes."""

import pytest
import torch
from test_decode_loop import STOP_IDS, assert_same, random_requests
from tiny_models import FAMILIES

from cai.engines import graphs
from cai.engines.decode import DecodeLoop
from cai.engines.graphs import StepGraphs
from cai.models.loading import load_causal_lm


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tiny_settings):
    return load_causal_lm(tiny_settings(request.param), device="cpu")


class Padded(StepGraphs):
    """Steps of rounded sizes, without a GPU."""

    def __init__(self, model, cache):
        super().__init__(model, cache, capture=False)

    usable = True


def same(completions):
    return [(c.token_ids, c.logprobs, c.finish) for c in completions]


@pytest.mark.parametrize("longest", [60, 300])
def test_rows_and_pages_that_are_nobodys_change_nothing(model, monkeypatch, longest):
    requests = random_requests(23, seed=4, longest=longest)
    expected = DecodeLoop(model, stop_ids=STOP_IDS, max_batch_tokens=1500).run(requests)
    monkeypatch.setattr("cai.engines.decode.can_capture", lambda model: True)
    monkeypatch.setattr("cai.engines.decode.StepGraphs", Padded)
    got = DecodeLoop(model, stop_ids=STOP_IDS, max_batch_tokens=1500).run(requests)
    assert_same(got, same(expected))


@pytest.mark.parametrize("count", [*range(1, 70), 255, 256, 257, 1000, 4097])
def test_sizes_are_rounded_up_by_an_eighth_at_most(count):
    rounded = graphs._rounded(count)
    assert count <= rounded <= count * 9 / 8
    assert graphs._rounded(rounded) == rounded


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_say_what_steps_say(model, monkeypatch):
    requests = random_requests(40, seed=6, longest=150)
    monkeypatch.setattr(graphs, "_WORTH", 0)  # every step is captured, however seldom its size is
    model.to("cuda")
    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: replays.append(graph) or replay(graph)
    )
    try:
        with_graphs = DecodeLoop(model, stop_ids=STOP_IDS, max_batch_tokens=8000).run(requests)
        plain = DecodeLoop(model, stop_ids=STOP_IDS, max_batch_tokens=8000, graphs=False).run(
            requests
        )
    finally:
        model.to("cpu")
    assert len(set(map(id, replays))) > 5
    assert_same(with_graphs, same(plain))
