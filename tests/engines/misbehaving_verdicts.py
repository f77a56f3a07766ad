"""What servers do wrong when a verdict is asked for: listed tokens, and texts of sampled verdicts.

✓ stands for the right option's letter, ✗ for a wrong one's.
"""

from misbehaviours import (
    EMPTY,
    OK,
    REFUSED,
    Case,
    at_letter,
    choice,
    listing,
    place,
    raw,
    says,
    told,
)

MINUS = -0.3
NAN, INFINITY = float("nan"), float("inf")


def score(name, wrong, expected):
    return Case(name, wrong, score=expected)


BRACKET = ("(", {"(": 0.99})
LETTER = ("✓", {"✓": 0.8, "✗": 0.1})
CLOSE = (")", {")": 1.0})
LISTED = [
    score("blank first", listing(" (✓)", (" ", {" ": 0.99}), BRACKET, LETTER, CLOSE), OK),
    score("line breaks first", listing("\n\n(✓)", ("\n\n", {"\n\n": 1.0}), BRACKET, LETTER), OK),
    score("bare letter", listing("✓", LETTER), OK),
    score("blank in the token", listing(" ✓", (" ✓", {" ✓": 0.8, " ✗": 0.1})), OK),
    score("bold", listing("**(✓)**", ("**", {"**": 0.9}), BRACKET, LETTER, CLOSE), OK),
    score("one token", listing("(✓)", ("(✓)", {"(✓)": 0.8, "(✗)": 0.1})), OK),
    score(
        "lead repeated",
        listing(
            "The answer is: (✓)",
            *((token, {token: 0.99}) for token in ("The", " answer", " is", ":", " (")),
            LETTER,
        ),
        OK,
    ),
    score("fastchat's brackets", listing("[[✓]]", ("[[", {"[[": 0.99}), LETTER), OK),
    score(
        "only the token itself",
        raw("(✓)", {"content": [place("(", [], -0.01), place("✓", [], -0.2)]}),
        OK,
    ),
    score("-9999 for the others", at_letter(("✓", 0.0), ("✗", -9999.0)), OK),
    score("-infinity for the others", at_letter(("✓", 0.0), ("✗", -INFINITY)), OK),
    score("duplicate tokens", at_letter(("✓", -0.2), ("✓", -3.0), ("✗", -2.0), ("✗", -4.0)), OK),
    score("fewer than asked for", at_letter(("✓", -0.2), ("✗", -2.0)), OK),
    score(
        "as the completions endpoint writes them (Together)",
        raw(
            "(✓)",
            {
                "tokens": ["(", "✓"],
                "token_logprobs": [-0.01, -0.2],
                "top_logprobs": [{"(": -0.01}, {"✓": -0.2, "✗": -2.0}],
            },
        ),
        OK,
    ),
    score(
        "so, without the likeliest",
        raw("(✓)", {"tokens": ["(", "✓"], "token_logprobs": [-0.01, -0.2]}),
        OK,
    ),
    score("null log-probability", at_letter(("✓", -0.2), ("✗", None)), EMPTY("no number")),
    score("a text for a number", at_letter(("✓", -0.2), ("✗", "-2")), OK),
    score("NaN", at_letter(("✓", NAN), ("✗", -2.0)), EMPTY("no number")),
    score("positive", at_letter(("✓", 0.5), ("✗", -2.0)), EMPTY("more than 0")),
    score("infinite", at_letter(("✓", INFINITY), ("✗", -2.0)), EMPTY("more than 0")),
    score("more than 1 together", at_letter(("✓", -0.2), ("✗", -0.3)), EMPTY("more than 1")),
    score("true", at_letter(("✓", True), ("✗", -2.0)), EMPTY("")),
    score("token null", at_letter((None, -0.2), ("✗", -2.0)), EMPTY("cannot be read")),
    score("token a number", at_letter((17, -0.2), (18, -2.0)), EMPTY("cannot be read")),
    score("token left out", raw("(✓)", {"content": [{"logprob": -0.1}]}), EMPTY("cannot be read")),
    score("lower case", listing("(g)", BRACKET, ("x", {"x": 0.9})), EMPTY("none of the options")),
    score(
        "byte tokens",
        listing("(✓)", ("<0x28>", {"<0x28>": 0.9}), ("<0x41>", {"<0x41>": 0.9})),
        EMPTY("none of the options"),
    ),
    score(
        "token ids (vLLM)",
        listing("(✓)", ("token_id:7", {"token_id:7": 0.9}), ("token_id:8", {"token_id:8": 0.9})),
        EMPTY("none of the options"),
    ),
    score(
        "neither option listed",
        listing("Both are fine.", ("Both", {"Both": 0.9, "Neither": 0.1})),
        EMPTY("none of the options"),
    ),
    score(
        "a refusal",
        listing("I can't help.", ("I", {"I": 0.97}), (" can", {" can": 0.9})),
        EMPTY("none of the options"),
    ),
    score(
        "bounds that do not tell",
        listing("**(✗)**", ("**", {"**": 0.97, "(✓": 0.01}), ("✗", {"C": 0.1, "D": 0.1})),
        EMPTY("do not tell"),
    ),
    score(
        "a verdict taken back",
        listing("(✗) is wrong", BRACKET, ("✗", {"✗": 0.9}), CLOSE, (" is", {}), (" wrong", {})),
        EMPTY("no clear verdict"),
    ),
    score(
        "both options",
        listing("(✗) and (✓)", BRACKET, ("✗", {"✗": 0.9}), (") and (", {}), ("✓", {})),
        EMPTY("no clear verdict"),
    ),
    score("tokens of another text", listing("(✓)", BRACKET, ("✗", {"✗": 0.9}), CLOSE), EMPTY("(")),
    score(
        "tokens that stop before the answer does",
        listing("(✗) is wrong, (✓) is right", BRACKET, ("✗", {"✗": 0.9})),
        EMPTY("no clear verdict"),
    ),
    score(
        "the thoughts' tokens (vLLM)",
        listing("(✓)", ("<think>", {"<think>": 1.0}), ("Hm", {"Hm": 0.9})),
        EMPTY("none of the options"),
    ),
    score(
        "reasoning and no text",
        choice(
            {"role": "assistant", "content": None, "reasoning": "Hm"},
            finish_reason="length",
            logprobs={"content": []},
        ),
        EMPTY("empty"),
    ),
    score("no text and no log-probabilities", says(""), EMPTY("empty")),
    score(
        "refusal's log-probabilities (OpenAI)",
        choice(
            {"role": "assistant", "content": None, "refusal": "I can't help."},
            logprobs={"content": None, "refusal": [place("I", [("I", MINUS)])]},
        ),
        REFUSED("I can't help."),
    ),
]
"""None of the wrong answers may give the wrong option a label, nor the right one by chance."""
UNLISTED = {
    "no log-probabilities": "(✓)",
    "verdict in bold": "**(✓)**",
    "verdict bare": "✓",
    "verdict with the lead repeated": "The answer is: (✓)",
    "verdict with its reason": "(✓) because it is good.",
    "verdict said again": "(✓)\n\n(✓)",
    "verdict in LaTeX": "\\boxed{✓}",
    "verdict and the next turn": "(✓)\n\nHuman: And (✗)?",
}
NO_VERDICT = {
    "both": "Both are fine.",
    "neither": "Neither of them.",
    "one or the other": "(✗) or (✓)",
    "negated": "(✗) is not better.",
    "negated before": "Not (✗).",
    "taken back": "(✗). Wait, (✓).",
    "refused": "I'm sorry, but I can't help with that.",
    "lower case": "(g)",
    "question": "Which one?",
    "blanks": " \n ",
    "digits": "42",
}
SAMPLED = [
    *(score(f"sampled: {name}", told(text), OK) for name, text in UNLISTED.items()),
    *(score(f"sampled: {name}", told(text), EMPTY("")) for name, text in NO_VERDICT.items()),
    score("logprobs empty", raw("(✓)", {}), OK),
    score("logprobs null inside", raw("(✓)", {"content": None}), OK),
    score("logprobs an empty list", raw("(✓)", {"content": []}), OK),
]
