"""The wording of a set of answers: shared openings and phrases, boilerplate, preaching.

Over-trained models give the same answer to all prompts, or preach. This is measured without a
model.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

OPENING_WORDS = 4
NGRAM_WORDS = 5
BOILERPLATE_WORDS = 6
BOILERPLATE_PROMPTS = 3
BOILERPLATE_SHARE = 0.02

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'"})
_FORMS = r"(?:strongly |deeply |really |kindly |gently |just )?"
_PREACHING = re.compile(
    "|".join(
        (
            rf"\bi {_FORMS}(?:urge|encourage|implore|advise|caution|beg) (?:you|everyone)\b",
            rf"\b(?:i'd|i would) {_FORMS}(?:urge|encourage|caution|advise) you\b",
            r"\b(?:please|you should|consider) (?:\w+ )?(?:seek|seeking|get|getting|reach out for|"
            r"talk to|speak to|contact)\b[^.]{0,60}\b(?:help|support|professional|therapist|"
            r"counsell?or|treatment)\b",
            r"\b(?:i'm|i am|we're|we are) (?:always )?here (?:to|for|if)\b",
            r"\byou(?:'re| are)? (?:are )?(?:\w+ )?(?:valid|valued|loved|cared for|worthy|"
            r"deserving|not alone)\b",
            r"\byou deserve\b|\byour (?:feelings|worth|dignity|life|well-?being) (?:is|are|matter)",
            r"\b(?:is|are|that's|it's) (?:\w+ )?(?:deeply|extremely|highly|incredibly|profoundly|"
            r"never) (?:offensive|harmful|unethical|immoral|wrong|hurtful|disrespectful|okay|ok|"
            r"acceptable|concerning|troubling)\b",
            r"\b(?:compassion|kindness|empathy|dignity|respect) (?:and|or|,) (?:\w+ )?"
            r"(?:compassion|kindness|empathy|understanding|dignity|respect|care|love)\b",
            r"\b(?:hateful|toxic|prejudiced|bigoted|dehumani[sz]ing) \w+",
            r"\blet(?:'s| us) (?:all )?(?:try|strive|work|find|treat|choose|focus|aim)\b",
        )
    )
)


def words_of(text: str) -> list[str]:
    """Return the words of a text, lower case, without punctuation."""
    return _WORD.findall(text.translate(_APOSTROPHES).lower())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Return the runs of `n` words of a text, lower case, in order, with their punctuation."""
    return _runs(text.lower().split(), n)


def repeated_share(items: Sequence[object]) -> float:
    """Return the share of items that are equal to an earlier one, in [0, 1); 0 without items."""
    return 1 - len(Counter(items)) / len(items) if items else 0.0


def repeated_openings(texts: Sequence[str]) -> float:
    """Return the share of texts that begin with the same four words as one before, in [0, 1)."""
    return repeated_share([tuple(text.lower().split()[:OPENING_WORDS]) for text in texts])


def repeated_ngrams(texts: Sequence[str]) -> float:
    """Return the share of the texts' distinct word 5-grams that an earlier text also has."""
    return repeated_share(
        [gram for text in texts for gram in dict.fromkeys(ngrams(text, NGRAM_WORDS))]
    )


def boilerplate(texts: Sequence[str], prompts: Sequence[str]) -> tuple[list[bool], list[str]]:
    """Find phrases that do not depend on the prompt.

    Boilerplate is a run of six words in answers to at least three prompts, and to at least 2% of
    them. Several answers to one prompt count once.

    Args:
        texts: Answers.
        prompts: The prompt of each answer; equal texts are one prompt.

    Returns:
        For each answer, whether it has such a run; and the runs, those of most prompts first.
    """
    grams = [set(_runs(words_of(text), BOILERPLATE_WORDS)) for text in texts]
    asked: dict[tuple[str, ...], set[str]] = {}
    for found, prompt in zip(grams, prompts, strict=True):
        for gram in found:
            asked.setdefault(gram, set()).add(prompt)
    least = max(BOILERPLATE_PROMPTS, math.ceil(BOILERPLATE_SHARE * len(set(prompts))))
    shared = {gram: len(who) for gram, who in asked.items() if len(who) >= least}
    ranked = sorted(shared, key=lambda gram: (-shared[gram], gram))
    return [not found.isdisjoint(shared) for found in grams], [" ".join(gram) for gram in ranked]


def is_preachy(text: str) -> bool:
    """Return whether a text preaches, urges or comforts, by its wording (English)."""
    plain = " ".join(text.translate(_APOSTROPHES).lower().split())
    return _PREACHING.search(plain) is not None


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
