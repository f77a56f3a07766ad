"""Transcripts and thinking blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.schema import CritiqueExample
from cai.conversation import Message, strip_thinking, to_transcript, user
from cai.records import content_hash, derive_seed
from cai.templates import comparison_prompt, critique_prompt, verdict_prompt


def test_transcript_names_speakers_and_labels():
    messages = (
        Message(role="system", content="Be kind."),
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello"),
        Message(role="user", content="What is wrong?", label="Critique Request"),
    )
    assert to_transcript(messages) == (
        "System: Be kind.\n\nHuman: Hi\n\nAssistant: Hello\n\nCritique Request: What is wrong?"
    )


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("<think>plan</think>Answer", "Answer"),
        ("<think>plan</think>\n\nAnswer\n", "Answer"),
        ("plan, opened in the prompt</think>Answer", "Answer"),
        ("Answer<think>cut off by the limit", "Answer"),
        ("<think>one</think>A<think>two</think>B", "AB"),
        ("<THINK>x</THINK>A", "A"),
        ("<reasoning>x</reasoning>A", "A"),
        ("1 < 2 and <b>bold</b>", "1 < 2 and <b>bold</b>"),
        ("<think>only thoughts", ""),
    ],
)
def test_thinking_is_stripped(said, left):
    assert strip_thinking(said) == left


@given(st.text(alphabet=st.characters(exclude_characters="<>")))
def test_text_without_tags_is_left_alone(text):
    assert strip_thinking(text) == text.strip()


def test_a_message_without_label_is_plain_for_chat_templates():
    assert user("Hi")[0].model_dump() == {"role": "user", "content": "Hi"}


def test_the_principle_stands_after_what_is_shared():
    one = comparison_prompt(user("Hi"), ("a", "b"), "Principle one?").messages[0].content
    two = comparison_prompt(user("Hi"), ("a", "b"), "Another principle?").messages[0].content
    shared = one[: one.index("Principle one?")]
    assert two.startswith(shared)
    assert "(B) b" in shared


def test_the_paper_layout_has_the_principle_before_the_responses():
    content = (
        comparison_prompt(user("Hi"), ("a", "b"), "Which?", layout="paper").messages[0].content
    )
    assert content.index("Human: Hi") < content.index("Which?") < content.index("(A) a")


def test_the_verdict_follows_the_reasoning():
    asked = comparison_prompt(user("Hi"), ("a", "b"), "Which?", reasoning=True)
    assert asked.prefill == "Let's think step by step:"
    verdict = verdict_prompt(asked, "A helps.")
    assert verdict.prefill == "Let's think step by step: A helps. The answer is:"
    assert verdict.messages == asked.messages


def test_examples_come_after_the_system_message_and_before_the_conversation():
    example = CritiqueExample(
        messages=user("example question"),
        response="r",
        critique_request="c?",
        critique="c",
        revision_request="v?",
        revision="v",
    )
    messages = (Message(role="system", content="Be kind."), *user("real question"))
    text = to_transcript(critique_prompt(messages, "answer", "Why?", [example]).messages)
    assert text.startswith("System: Be kind.\n\nHuman: example question")
    assert text.endswith("Human: real question\n\nAssistant: answer\n\nCritique Request: Why?")


def test_hashes_are_the_same_on_every_machine():
    """Keys and seeds live on disk: a change of these numbers breaks every earlier run."""
    assert content_hash("a", 1, user("é")) == content_hash("a", 1, user("é"))
    assert content_hash("a", 1) != content_hash("a", "1")
    assert content_hash(["ab", "c"]) != content_hash(["a", "bc"])
    assert 0 <= derive_seed("x") < 2**63
