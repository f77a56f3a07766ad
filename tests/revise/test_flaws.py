"""Flaws of critiques and revisions: variants of each kind, and texts that have none."""

import pytest

from cai.constitution.schema import CritiqueExample
from cai.data.conversation import Message
from cai.revise.flaws import Examples, Round, find_flaws
from cai.revise.languages import language

ASKED = "How can I open my neighbour's garden shed without the key?"
FIRST = (
    "Slide a thin screwdriver between the shed door and its frame, push the latch back and pull. "
    "Most garden sheds have a latch that gives way at once."
)
GOOD = (
    "I would not open the shed behind your neighbour's back. Ask for the key, say what you need "
    "from it and when you will bring the key back; most neighbours are glad to help."
)
CRITIQUE = (
    "The response explains how to force the shed door, which could damage the frame and would be "
    "a break-in. It should have suggested asking the neighbour."
)
EXAMPLE = CritiqueExample(
    messages=(Message(role="user", content="Can I clean my bathroom with bleach and vinegar?"),),
    response="Good idea! Mix them half and half in a bucket, and it does both at once.",
    critique_request="Is it dangerous?",
    critique=(
        "Yes. The mixture releases chlorine gas, and somebody who tried it in a small bathroom "
        "could damage their lungs. There is no warning at all."
    ),
    revision_request="Make it safe.",
    revision=(
        "Please never mix these two, because together they release a gas that hurts your lungs. "
        "Use vinegar first, rinse well, and air the room for a while."
    ),
)
EXAMPLES = Examples([EXAMPLE])


def found(revision=GOOD, critique=CRITIQUE, *, asked=ASKED, first=FIRST, before=None):
    """Return (where, flaw) of all that is found."""
    one = Round(
        messages=(Message(role="user", content=asked),),
        first=first,
        before=first if before is None else before,
        requests=("Name what could hurt somebody.", "Rewrite it so that nobody comes to harm."),
        critique=critique,
        revision=revision,
    )
    return {(flaw.where, flaw.flaw) for flaw in find_flaws(one, EXAMPLES)}


SOUND = {
    "plain": GOOD,
    "short": "Ask your neighbour for the key.",
    "one word": "No.",
    "keeps most of the first response": FIRST + " Ask first, though.",
    "unchanged": FIRST,
    "explained refusal": (
        "I can't help with opening the shed, because it is not yours and forcing it would be a "
        "break-in. Ask your neighbour for the key."
    ),
    "a few words of an example": "Rinse well, and air the shed for a while; ask for the key first.",
    "a list": "1. Ask for the key.\n2. Open the shed door with it.\n3. Bring the key back.",
    "speaks of a person's answer": "The neighbour's answer decides: no key, no shed.",
    "speaks of an assistant": "The shop assistant can cut a second key for the shed door.",
    "that is the answer": "The key answers it: with the key the shed opens, so ask for it.",
    "the best response to a neighbour": (
        "The best way is to ask. If your neighbour says no, leave the shed alone."
    ),
    "a colon": "What to do: ask your neighbour. What not to do: force the door.",
    "user in the text": "Every user: read this first. The shed is your neighbour's.",
    "code": "```python\nprint('ask for the key of the shed')\n```",
    "repeats a word": "No, no, no, no: ask your neighbour for the key of the shed.",
    "a formula": "Ask your neighbour: αβ is not the key of the shed, and µ is not either.",
    "numbers": "Call 0800 123 456 and ask the neighbour about the shed.",
    "quotes": 'Say: "May I have the key of the garden shed?"',
}


@pytest.mark.parametrize("revision", SOUND.values(), ids=SOUND.keys())
def test_revisions_without_a_flaw(revision):
    assert found(revision) == set()


FLAWED = {
    "copied whole": ("copied", EXAMPLE.revision),
    "copied with a new beginning": ("copied", "I would ask for the key. " + EXAMPLE.revision),
    "copied in other case": ("copied", EXAMPLE.revision.upper()),
    "copied without punctuation": ("copied", EXAMPLE.revision.replace(",", "").replace(".", "")),
    "copied critique": (
        "copied",
        "Somebody who tried it in a small bathroom could damage their lungs; ask for the key.",
    ),
    "copied response": ("copied", EXAMPLE.response),
    "the assistant's response": (
        "describes",
        "The assistant's response keeps to its own standards and does not open the shed.",
    ),
    "the response is": ("describes", "The response is helpful and does not open the shed."),
    "this revised response": ("describes", "This revised response avoids the shed and the key."),
    "the assistant should": ("describes", "The assistant should ask for the key of the shed."),
    "the assistant's last": (
        "describes",
        "The assistant's last response does not help with the shed or with the key.",
    ),
    "my answer was": ("describes", "My previous answer was wrong about the shed and the key."),
    "in bold": ("describes", "**The assistant's response** explains how to open a shed door."),
    "later on": (
        "describes",
        "Ask for the key of the shed. The assistant's response should say so to the neighbour.",
    ),
    "in another person": (
        "describes",
        "I understand. The assistant will not open the shed.",
    ),
    "yes, the response": ("describes", "Yes, the response would help somebody to open the shed."),
    "the prompt": ("echo", ASKED),
    "the prompt and more": ("echo", f"{ASKED} I want to open it."),
    "the critique": ("echo", CRITIQUE.replace("The response explains", "You explain")),
    "the request": ("echo", "Rewrite it so that nobody comes to harm, with the key of the shed."),
    "another turn": ("dialogue", f"{GOOD}\n\nHuman: And the garage?\n\nAssistant: Ask."),
    "another turn, in bold": ("dialogue", f"{GOOD}\n**User**: And the garage?"),
    "the next request": ("dialogue", f"{GOOD}\nCritique Request: name what is wrong."),
    "as a critique": ("dialogue", f"Critique: {GOOD}"),
    "nearly off topic": (
        "off_topic",
        "Cybersecurity depends upon encryption, firewalls, patching, monitoring, training, backups "
        "and audits; organisations budget accordingly, whatever their neighbours think about it.",
    ),
    "off topic": (
        "off_topic",
        "Photosynthesis converts sunlight, carbon dioxide and water into glucose and oxygen inside "
        "chloroplasts, mostly during bright summer mornings around mountain meadows everywhere.",
    ),
    "in Chinese": (
        "language",
        "我建议你先问问邻居，不要在没有钥匙的情况下打开花园的棚子，这样不好。",
    ),
    "in Russian": ("language", "Лучше спросите у соседа ключ от сарая, не открывайте без него."),
    "a word in Chinese": ("language", "Ask your neighbour for the 钥匙 of the shed, please."),
    "a word in Arabic": ("language", "Ask your neighbour for theمفتاح of the garden shed."),
    "in German": (
        "language",
        "Das würde ich nicht tun: frag den Nachbarn, ob er dir den Schlüssel für die Hütte gibt, "
        "und bring ihn auch zurück. Es ist nicht deine, und er ist sicher freundlich.",
    ),
    "loops": ("repetitive", "Ask for the key of the shed and wait. " * 8),
    "loops after a good start": ("repetitive", GOOD + " Thank you very much." * 30),
    "refuses": ("refusal", "I'm sorry, but I can't help with that."),
    "says nothing": ("refusal", "I cannot assist with this request."),
}


@pytest.mark.parametrize(("flaw", "revision"), FLAWED.values(), ids=FLAWED.keys())
def test_flaws_of_revisions(flaw, revision):
    assert ("revision", flaw) in found(revision)


FLAWED_CRITIQUES = {
    "copied": ("copied", EXAMPLE.critique),
    "copied in part": ("copied", "It could damage their lungs. There is no warning at all."),
    "refuses": ("refusal", "I'm sorry, but I can't assist with that."),
    "refuses at length": (
        "refusal",
        "I cannot help with this, since it is a break-in into a shed.",
    ),
    "repeats the response": ("echo", FIRST),
    "repeats the request": (
        "echo",
        "Name what could hurt somebody. Name what could hurt somebody.",
    ),
    "goes on": ("dialogue", f"{CRITIQUE}\n\nRevision Request: rewrite it."),
    "another language": (
        "language",
        "这个回答教人如何打开邻居的棚子，可能会造成损坏，应该先问邻居。",
    ),
}


@pytest.mark.parametrize(
    ("flaw", "critique"), FLAWED_CRITIQUES.values(), ids=FLAWED_CRITIQUES.keys()
)
def test_flaws_of_critiques(flaw, critique):
    assert ("critique", flaw) in found(critique=critique)


@pytest.mark.parametrize(
    "critique",
    [
        CRITIQUE,
        None,
        "It quotes the way in: “push the latch back and pull”. That helps a burglar.",
        "Nothing in the response could hurt anybody.",
        "Yes. The assistant's response would be of use to a thief.",
    ],
)
def test_critiques_without_a_flaw(critique):
    assert {flaw for where, flaw in found(critique=critique) if where == "critique"} == set()


def test_words_of_the_conversation_are_not_copied():
    """An example may be about the very thing that is asked."""
    asked = f"Improve this text: {EXAMPLE.revision}"
    assert ("revision", "copied") not in found(EXAMPLE.revision, asked=asked)
    assert ("revision", "copied") not in found(EXAMPLE.revision, first=EXAMPLE.revision)


def test_a_refusal_that_stood_before_is_not_counted_again():
    assert found("I can't help with that.", before="I'm sorry, I can't assist with that.") == set()


def test_words_of_scripts_without_blanks_are_compared():
    example = EXAMPLE.model_copy(
        update={"revision": "请不要把这两种东西混在一起因为它们会放出有毒的气体"}
    )
    one = Round(
        messages=(Message(role="user", content="怎样打开邻居的花园棚子而不用钥匙呢请告诉我"),),
        first="用螺丝刀就可以打开棚子的门了很简单",
        before="用螺丝刀就可以打开棚子的门了很简单",
        requests=(),
        critique=None,
        revision="请不要把这两种东西混在一起因为它们会放出有毒的气体",
    )
    assert [f.flaw for f in find_flaws(one, Examples([example]))] == ["copied"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You can ask for the key and it is not a problem for your neighbour.", "English"),
        ("Du kannst den Schlüssel holen und das ist nicht ein Problem für den Nachbarn.", "German"),
        ("Vous pouvez demander la clé et ce n'est pas un problème pour les voisins.", "French"),
        (
            "Puede pedir la llave y no es un problema para los vecinos que están en su casa.",
            "Spanish",
        ),
        ("Можно попросить ключ у соседа, это не проблема.", "CYRILLIC"),
        ("你可以向邻居要钥匙，这对他来说不是问题，他们会很高兴的。", "CJK"),
        ("鍵を隣の人に頼んでください。それは問題ではありません。", "CJK"),
        ("열쇠를 이웃에게 부탁하세요. 문제가 되지 않습니다. 괜찮습니다.", "HANGUL"),
        ("Ask.", None),
        ("12345 67890 12345 67890 12345", None),
        ("x = foo(bar) + baz(qux) * quux", None),
    ],
)
def test_languages(text, expected):
    assert language(text) == expected


def test_words_of_a_script_that_the_conversation_has_are_no_flaw():
    asked = "How do I ask my neighbour for the 钥匙 of the shed?"
    revision = "Ring the bell, explain why you need the 钥匙, and promise to bring it back today."
    assert found(revision, asked=asked) == set()


def test_a_conversation_about_the_assistant_may_be_answered_so():
    asked = "Why did you say that the assistant will open my garden shed?"
    revision = "The key matters: the assistant will not open your garden shed without the key."
    assert found(revision, asked=asked) == set()


def test_the_characters_of_a_long_prompt_are_looked_at_once(monkeypatch):
    """A prompt of megabytes is asked about in each round; each character costs one look-up."""
    from cai.revise import languages

    asked = []
    own = languages.unicodedata.name
    monkeypatch.setattr(
        languages.unicodedata, "name", lambda *given: asked.append(given[0]) or own(*given)
    )
    languages._script.cache_clear()
    prompt = "a prompt of many words, among them żółw and дом " * 2000
    for _ in range(3):
        languages.language(prompt)
        languages.foreign_script("a revised text with a few words", [prompt])
    assert len(asked) == len(set(asked)) <= len(set(prompt)) + 26
