"""Stop texts are found as soon as they are there, however the tokens cut them."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_tiny_tokenizer

from cai.engines.stopping import StopTexts
from cai.models.chat import ChatFormat

CHAT = ChatFormat(make_tiny_tokenizer("llama"))
pieces = st.sampled_from(["\n\n", "Human", ":", "é", "👍", " the", "H", "man", " ", "<|eot_id|>"])
stops = st.lists(
    st.sampled_from(["\n\nHuman:", "é", "👍", ": ", "n:", "the 👍"]), min_size=1, unique=True
)


@given(st.lists(pieces, max_size=20).map("".join), stops)
@settings(max_examples=150, deadline=None)
def test_ends_at_the_first_token_that_completes_a_stop_text(text, texts):
    ids = CHAT.tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = StopTexts(CHAT.decode, texts)
    wanted = [any(t in CHAT.decode(ids[: n + 1]) for t in texts) for n in range(len(ids))]
    first = wanted.index(True) if True in wanted else len(ids)
    assert [ends(ids[: n + 1]) for n in range(first + 1) if n < len(ids)] == wanted[: first + 1]
