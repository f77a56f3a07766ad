"""Attention over pages against its formula, written out in float64 for one token at a time."""

import dataclasses
import mmap
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from cai.engines.attention import PAGE, Appending, Decoding, How
from cai.engines.decode import DecodeLoop
from cai.engines.pages import PagedCache, _zeros, pages_for
from cai.errors import CaiError

SIZE, CPU = 8, torch.device("cpu")


@dataclasses.dataclass
class Case:
    """Sequences of some lengths, their states in pages that no one has put in order."""

    lengths: list[int]
    heads: int
    kv_heads: int
    how: How
    seed: int

    def __post_init__(self):
        draw = torch.Generator().manual_seed(self.seed)
        counts = [pages_for(length) for length in self.lengths]
        order = torch.randperm(sum(counts) + 3, generator=draw).tolist()
        self.pages = [[order.pop() for _ in range(count)] for count in counts]
        shape = (sum(counts) + 3, self.kv_heads, PAGE, SIZE)
        # What lies in unused places is any numbers.
        self.store = tuple(torch.randn(shape, generator=draw) for _ in range(2))
        self.draw = draw

    def states(self, row):
        """Keys and values `(kv_heads, length, size)` of a sequence."""
        length = self.lengths[row]
        return [
            torch.cat([store[page] for page in self.pages[row]], dim=1)[:, :length]
            for store in self.store
        ]

    def expected(self, row, query, place):
        """What the token at a place of a sequence gets for its query `(heads, size)`."""
        keys, values = (states.double() for states in self.states(row))
        first = 0 if self.how.window is None else max(0, place + 1 - self.how.window)
        outputs = []
        for head in range(self.heads):
            shared = head // (self.heads // self.kv_heads)
            scores = keys[shared, first : place + 1] @ query[head].double() * self.how.scaling
            weights = scores.exp()
            nothing = 0 if self.how.sinks is None else self.how.sinks[head].double().exp()
            outputs.append(weights @ values[shared, first : place + 1] / (weights.sum() + nothing))
        return torch.stack(outputs).float()


@st.composite
def cases(draw):
    kv_heads = draw(st.sampled_from([1, 2]))
    heads = kv_heads * draw(st.sampled_from([1, 3]))
    window = draw(st.none() | st.integers(1, 150))
    sinks = draw(st.none() | st.integers(0, 99))
    if sinks is not None:
        sinks = torch.randn(heads, generator=torch.Generator().manual_seed(sinks))
    lengths = draw(st.lists(st.integers(1, 3 * PAGE), min_size=1, max_size=6))
    return Case(lengths, heads, kv_heads, How(0.4, window, sinks), draw(st.integers(0, 999)))


@given(cases())
def test_the_newest_token_of_every_sequence_attends_to_what_it_may_see(case):
    query = torch.randn(len(case.lengths), case.heads, SIZE, generator=case.draw)
    got = Decoding(case.pages, case.lengths, CPU).attend(query, case.store, case.how)
    wanted = [case.expected(row, query[row], length - 1) for row, length in enumerate(case.lengths)]
    torch.testing.assert_close(got, torch.stack(wanted), atol=1e-4, rtol=1e-4)


@given(cases())
def test_a_step_later_it_is_the_next_token(case):
    room = [length for length in case.lengths if length % PAGE]
    if len(room) < len(case.lengths):
        return  # a new page is a new layout
    decoding = Decoding(case.pages, case.lengths, CPU)
    query = torch.randn(len(case.lengths), case.heads, SIZE, generator=case.draw)
    decoding.attend(query, case.store, case.how)
    decoding.advance()
    case.lengths = [length + 1 for length in case.lengths]
    got = decoding.attend(query, case.store, case.how)
    wanted = [case.expected(row, query[row], length - 1) for row, length in enumerate(case.lengths)]
    torch.testing.assert_close(got, torch.stack(wanted), atol=1e-4, rtol=1e-4)


@given(cases(), st.integers(0, 3 * PAGE))
def test_many_new_tokens_attend_to_what_each_may_see(case, known):
    length = case.lengths[0]
    known = min(known, length - 1)
    new = length - known
    query = torch.randn(case.heads, new, SIZE, generator=case.draw)
    fresh = tuple(states[:, known:] for states in case.states(0))
    appending = Appending(known, new, case.pages[0][: pages_for(known)], CPU)
    got = appending.attend(query, fresh, case.store, case.how)
    wanted = [case.expected(0, query[:, at], known + at) for at in range(new)]
    torch.testing.assert_close(got, torch.stack(wanted), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_half_precision_are_attended_to_in_float32(dtype):
    case = Case([PAGE + 5, 3], 4, 2, How(0.4, None, None), seed=0)
    case.store = tuple(states.to(dtype) for states in case.store)
    query = torch.randn(2, 4, SIZE, generator=case.draw).to(dtype)
    got = Decoding(case.pages, case.lengths, CPU).attend(query, case.store, case.how)
    wanted = [case.expected(row, query[row], case.lengths[row] - 1) for row in range(2)]
    torch.testing.assert_close(got.float(), torch.stack(wanted), atol=0.02, rtol=0.02)


@given(
    actions=st.lists(
        st.tuples(st.sampled_from(["take", "free", "compact"]), st.integers(0, 9)), max_size=30
    )
)
def test_pages_have_one_owner_and_keep_what_is_in_them(actions):
    cache, owned, numbers = PagedCache(), [], iter(range(1000))
    for action, number in actions:
        if action == "take":
            for page in cache.take(number):
                owned.append((page, float(next(numbers))))
                if not cache._stores:
                    cache._stores.append(cache._allocate(*[torch.zeros(1, 1, 1, 1)] * 2))
                cache._stores[0][0][page] = owned[-1][1]
        elif action == "free":
            cache.free([page for page, _ in owned[:number]])
            owned = owned[number:]
        else:
            moved = cache.compact()
            owned = [(moved.get(page, page), value) for page, value in owned]
            assert cache.top == cache.used
        assert len({page for page, _ in owned}) == len(owned) == cache.used
        assert all(bool((cache._stores[0][0][page] == value).all()) for page, value in owned)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("gptj", {"n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4}, "its own way"),
        ("mamba", {"hidden_size": 16, "num_hidden_layers": 1}, "linear_attention"),
    ],
)
def test_attention_of_another_kind_is_refused(kind, settings, said):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=50, **settings))
    with pytest.raises(CaiError, match=f"{said}.*engine: vllm"):
        DecodeLoop(model, stop_ids=(), max_batch_tokens=100)


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="needs Linux")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_stores_are_zeros_in_huge_pages_of_their_own(dtype):
    zeros = _zeros((900, 4, PAGE, SIZE), torch.ones(1, 4, 1, SIZE, dtype=dtype))
    assert zeros.dtype == dtype
    assert zeros.shape == (900, 4, PAGE, SIZE)
    assert not zeros.any()
    flags, inside = "", False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            first, end = (int(address, 16) for address in span.groups())
            inside = first <= zeros.data_ptr() < end
        elif inside and line.startswith("VmFlags"):
            flags = line
    assert " hg" in flags  # advised to be huge
    assert " sh" not in flags  # shared memory would not be
