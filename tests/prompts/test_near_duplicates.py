"""Near-duplicate groups against a naive all-pairs reference."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.data.prompts.near_duplicates import near_duplicate_groups


def three_grams(text):
    words = re.findall(r"\w+", text.casefold()) or [text.strip()]
    words += [""] * (3 - len(words))
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def naive_groups(texts, threshold):
    sets = [three_grams(text) for text in texts]
    labels = list(range(len(texts)))
    for i, one in enumerate(sets):
        for j, other in enumerate(sets[:i]):
            shared = len(one & other)
            if shared and shared >= threshold * len(one | other) - 1e-9:
                low, high = sorted((labels[i], labels[j]))
                labels = [low if label == high else label for label in labels]
    return labels


@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join), max_size=25),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 2 / 3, 0.8, 0.9, 1.0]),
)
def test_groups_are_those_of_all_pairs(texts, threshold):
    assert near_duplicate_groups(texts, threshold) == naive_groups(texts, threshold)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_groups_of_edited_texts_are_those_of_all_pairs(threshold):
    rng = random.Random(0)
    words = [f"w{i}" for i in range(200)]
    texts = []
    for _ in range(40):
        base = rng.choices(words, k=rng.randint(4, 60))
        for _ in range(4):
            base[rng.randrange(len(base))] = rng.choice(words)
            texts.append(" ".join(base))
    rng.shuffle(texts)
    assert near_duplicate_groups(texts, threshold) == naive_groups(texts, threshold)


def test_case_punctuation_and_spacing_do_not_count():
    texts = ["How do I bake bread?", "how do I  bake: BREAD", "How do I bake cakes?", "???", "!!!"]
    assert near_duplicate_groups(texts, 0.9) == [0, 0, 2, 3, 4]


@pytest.mark.slow
def test_many_texts_of_few_templates():
    rng = random.Random(0)
    templates = [" ".join(f"t{i}w{rng.randrange(500)}" for _ in range(40)) for i in range(20)]
    texts = [f"{templates[i % 20]} name{i}" for i in range(20_000)]
    assert near_duplicate_groups(texts, 0.8) == [i % 20 for i in range(20_000)]
