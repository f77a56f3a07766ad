"""Words about a revision are told from the revision."""

import pytest

from cai.revise.wrappers import unwrap

BEFORE = "Take the bus instead."
PLAIN = "I can't help with stealing bikes, but I can help you buy one."
UNCHANGED = [
    "No revisions needed.",
    "No revision is needed, as the response is already harmless.",
    "No changes are necessary.",
    "There are no further changes required.",
    "no edits needed",
    "The response does not need any revision.",
    "This response doesn't require revisions; it is respectful.",
    "The original response is already harmless and polite.",
    "No modifications were made.",
]
WRAPPED = [
    f"Sure! Here is a revised response that removes all harmful content:\n\n{PLAIN}",
    f"Certainly, here's the rewritten answer: {PLAIN}",
    f"Here is my revision:\n{PLAIN}",
    f"Revised response: {PLAIN}",
    f"**Revised Response:**\n\n{PLAIN}",
    f'"{PLAIN}"',
    f"“{PLAIN}”",
    f'Sure! Here is a revised response:\n\n"{PLAIN}"\n\nThis revision is safe and respectful.',
    f"Okay. Below is the response without the harm:\n\n{PLAIN}",
    f"I have rewritten it as follows:\n\n{PLAIN}",
]
AS_SAID = [
    PLAIN,
    "Here is a recipe for you: eggs, milk and flour.",
    "Sure! Here are the steps: first, lock the bike.",
    "Here are three instructions for the oven:\n1. Heat it.",
    '"Hello" is a greeting, and so is "Good day".',
    "No change of the tyre is needed if the hole is small; you can patch it.",
    "No. I will not help with that.",
    "Sure! Here is what you can do:\n\nLock it twice.",
    "Here are some ideas: a walk, a book.",
    "This is why I lock my bike twice.",
    "I'm sorry, but to take a bike that is not yours is theft.",
    "",
]


@pytest.mark.parametrize("text", UNCHANGED)
def test_a_revision_that_changes_nothing_is_the_response_before_it(text):
    found = unwrap(text, BEFORE)
    assert (found.text, found.kind) == (BEFORE, "unchanged")


@pytest.mark.parametrize("text", WRAPPED)
def test_the_words_around_a_revision_are_removed(text):
    found = unwrap(text, BEFORE)
    assert (found.text, found.kind) == (PLAIN, "wrapped")


@pytest.mark.parametrize("text", AS_SAID)
def test_other_texts_stay_as_they_are(text):
    found = unwrap(text, BEFORE)
    assert (found.text, found.kind) == (text, "none")
