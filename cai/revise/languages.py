"""The language of a text, as far as its script and its commonest words tell."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache

from cai.data.words import words

LEAST_LETTERS = 20
"""Fewer say nothing of the script."""
LEAST_WORDS = 4
"""Common words of one language that a text must have, and twice as many as of any other."""

_COMMON = {
    "English": "the of and to is that you it for with this are not have be on your or can will",
    "German": "der die und das ist nicht ich sie es zu den mit ein eine auf für von dem wenn auch",
    "French": "le la les des et est que une pour dans vous pas sur je ne ce du avec qui votre",
    "Spanish": "el los las que una por para con es del se lo como su más pero puede muy este sus",
    "Portuguese": "que não uma para com os do da em um as dos por mais se como ou você são seu",
    "Italian": "il che di non per una è con della un sono si le del più come questo ma nel gli",
    "Dutch": "de het een van en dat niet is op te zijn voor met je ik die als ook maar deze",
    "Polish": "nie się że na jest to do jak ale co tak za od czy przez dla są być jego może",
    "Turkish": "bir ve bu için ile da de çok daha olarak gibi ama ne var olan değil en kadar her",
    "Indonesian": "yang dan di untuk dengan tidak ini dari itu dalam akan pada adalah atau anda ke",
    "Vietnamese": "không của và là có được cho một người các trong để với những này bạn khi đã",
}
_WORDS = {
    name: frozenset(word for one in common.split() for word in words(one))
    for name, common in _COMMON.items()
}
_JOINED = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "BOPOMOFO": "CJK"}
"""Scripts that are written together."""


def foreign_script(text: str, others: Sequence[str]) -> str:
    """Return the first letters of a script that none of the other texts has; empty if all have it.

    Latin letters are at home everywhere, Greek ones in formulas, and a single letter says nothing.
    """
    known = {"LATIN", "GREEK", "MICRO"}.union(*map(_scripts, others))
    if _scripts(text) <= known:
        return ""
    for run in re.findall(r"[^\W\d_]{2,}", text):
        letters = [c for c in run if _script(c) not in known]
        if len(letters) > 1:
            return "".join(letters)
    return ""


@lru_cache(maxsize=64)
def _scripts(text: str) -> frozenset[str]:
    """Return the scripts of a text; the rounds of a chain ask again for its prompt."""
    return frozenset(map(_script, set(text)))


@cache
def _script(character: str) -> str:
    name = unicodedata.name(character, "?").split()[0].split("-")[0]
    return _JOINED.get(name, name)


@lru_cache(maxsize=64)
def language(text: str) -> str | None:
    """Return the language of a text in Latin letters, or the script of another; None if unsure."""
    scripts = Counter[str]()
    for character, count in Counter(text).items():
        if character.isalpha():
            scripts[_script(character)] += count
    if scripts.total() < LEAST_LETTERS:
        return None
    ((script, letters),) = scripts.most_common(1)
    if letters < 0.6 * scripts.total():
        return None
    return script if script != "LATIN" else _latin(text)


def _latin(text: str) -> str | None:
    own = Counter(words(text))
    counts = Counter({name: sum(own[w] for w in known) for name, known in _WORDS.items()})
    (best, most), (_, second) = counts.most_common(2)
    return best if most >= LEAST_WORDS and most >= 2 * second else None
