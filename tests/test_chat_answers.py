"""Where answers stand: after the generation prompt, or where a template that thinks writes them."""

import pytest
from chat_formats import EVERY, FORMATS, turns
from tiny_models import THINKING_FAMILIES, make_tiny_tokenizer

from cai.data.conversation import Message, Prompt, user
from cai.errors import CaiError
from cai.models.chat import CHAT_FORMAT, TEMPLATE_DATE, ChatFormat


def test_thinking_is_switched_off_and_closed():
    chat = FORMATS["qwen3"]
    text = chat.tokenizer.decode(chat.prompt_ids(Prompt(user("Why?"))))
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert text.count("<think>") == 1


def rendered(chat, messages, **options):
    """Return a conversation as transformers writes it, on the date that is pinned."""
    return chat.tokenizer.apply_chat_template(
        [message.model_dump() for message in messages],
        tokenize=False,
        enable_thinking=False,
        strftime_now=TEMPLATE_DATE.strftime,
        **options,
    )


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("before", [("Why?",), ("Why?", "Because.", "Who says so?")])
def test_answers_stand_where_the_template_writes_answers(family, before):
    chat = FORMATS[family]
    messages = turns(*before)
    prompt = chat.tokenizer.decode(chat.prompt_ids(Prompt(messages)))
    answer = chat.tokenizer.decode(chat.completion_ids("I do.", end=False))
    written = rendered(chat, (*messages, Message(role="assistant", content="I do.")))
    assert written.startswith(prompt + answer)
    prefilled = chat.tokenizer.decode(chat.prompt_ids(Prompt(messages, prefill="I")))
    assert written.startswith(prefilled)
    generated = rendered(chat, messages, add_generation_prompt=True)
    if family in THINKING_FAMILIES:
        assert generated.endswith("<think>\n")
        assert not prompt.endswith("<think>\n")
    else:
        assert generated == prompt


def test_thinking_that_is_closed_in_the_generation_prompt_alone_stays_there():
    tokenizer = make_tiny_tokenizer("qwen3")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    chat = ChatFormat(tokenizer)
    prompt = tokenizer.decode(chat.prompt_ids(Prompt(user("Why?"))))
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(chat.completion_ids("So.", end=False)) == "So."


def test_a_generation_prompt_that_differs_from_written_answers_gives_way():
    tokenizer = make_tiny_tokenizer("llama")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}<|start_header_id|>answer "
        "{% endif %}{{ m['content'] }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>analysis: {% endif %}"
    )
    chat = ChatFormat(tokenizer)
    ids = chat.prompt_ids(Prompt(user("Why?"))) + chat.completion_ids("So.")
    decoded = tokenizer.decode(ids).removeprefix("<|begin_of_text|>")
    assert decoded == "Why?<|eot_id|><|start_header_id|>answer So.<|eot_id|>"


def test_a_generation_prompt_that_varies_and_is_not_what_answers_have_is_refused():
    tokenizer = make_tiny_tokenizer("llama")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}{{ '<think>' if messages | length == 1 else '<plan>' }}"
        "{% endif %}"
    )
    chat = ChatFormat(tokenizer)
    assert chat.prompt_ids(Prompt(user("Why?")))
    with pytest.raises(CaiError, match="opens the answer to this conversation in a way of its own"):
        chat.prompt_ids(Prompt(turns("Hi", "Hello", "Bye")))


def test_a_date_in_a_template_is_that_of_the_chat_format():
    chat = FORMATS["deepseek_r1"]
    text = chat.tokenizer.decode(chat.prompt_ids(Prompt(user("Why?"))))
    assert "Today is 01 January 2026." in text
    assert "2026-01-01" in CHAT_FORMAT


def test_a_turn_that_quotes_a_thinking_tag_is_kept_whole():
    chat = FORMATS["qwen3"]
    said = "<think>hm</think> The tag </think> closes it."
    ids = chat.prompt_ids(Prompt(turns("What closes it?", said, "Thanks.")))
    assert said in chat.tokenizer.decode(ids)
