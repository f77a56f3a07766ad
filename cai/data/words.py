"""The words of a text in any script.

In scripts that put no blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese and
others), and in Korean, whose blanks vary, every character with its marks counts as a word.
"""

from __future__ import annotations

import unicodedata

import regex

_SCRIPTS = (
    "Han Hiragana Katakana Bopomofo Yi Hangul Thai Lao Khmer Myanmar "
    "New_Tai_Lue Tai_Le Tai_Tham Tai_Viet Javanese Balinese"
)
_WITHOUT_BLANKS = r"\N{KATAKANA-HIRAGANA PROLONGED SOUND MARK}" + "".join(
    rf"\p{{{script}}}" for script in _SCRIPTS.split()
)
_WORD = regex.compile(
    rf"(?=\w)[{_WITHOUT_BLANKS}]\p{{M}}*|[\w\p{{M}}--[{_WITHOUT_BLANKS}]]+", regex.VERSION1
)
_INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}\N{ARABIC TATWEEL}]")
# Combining classes of points and accents. Below are vowel signs, nuktas and sound marks, which
# tell words apart; tone marks of Thai and Lao are between.
_POINTS = range(10, 37)
_FIRST_ACCENT = 200


def words(text: str) -> list[str]:
    """Return the words of a text, normalised, without punctuation."""
    return _WORD.findall(normalised(text))


def normalised(text: str) -> str:
    """Return a text in NFKC and one letter case, without what may or may not be written."""
    if text.isascii():
        return text.casefold()
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept = (c for c in _INVISIBLE.sub("", parts).replace("ı", "i") if not _is_accent(c))
    return unicodedata.normalize("NFKC", "".join(kept))


def _is_accent(character: str) -> bool:
    order = unicodedata.combining(character)
    return order >= _FIRST_ACCENT or order in _POINTS
