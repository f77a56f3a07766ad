"""`cai.constitution.diff`: what an edit changes, and each change alone."""

import pytest

from cai.constitution import Constitution, Principle
from cai.constitution.diff import changes
from cai.constitution.schema import ComparisonExample, FewShot
from cai.data.conversation import user


def make(*principles, **more):
    return Constitution(name="c", principles=principles, **more)


A = Principle(id="a", critique="Is it\nso?", revision="Mend it.", comparison="Which is so?")
B = Principle(id="b", comparison="Which is better?", weight=2)
EXAMPLE = ComparisonExample(messages=user("Hi"), responses=("x", "y"), answer="A")


def kinds(before, after):
    return [(c.kind, c.subject, c.fields) for c in changes(before, after)]


def edited(principle, **update):
    return principle.model_copy(update=update)


def test_order_is_no_difference():
    assert kinds(make(A, B), make(B, A)) == []


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        ({"comparison": "Which is true?"}, [("reworded", "a", ("comparison",))]),
        ({"critique": "Is it so?"}, [("reformatted", "a", ("critique",))]),
        (
            {"critique": "Is it so?", "revision": "Do mend it."},
            [("reworded", "a", ("revision",)), ("reformatted", "a", ("critique",))],
        ),
        ({"comparison": None}, [("reworded", "a", ("comparison",))]),
        ({"weight": 3.0}, [("reweighted", "a", ("weight",))]),
        ({"tags": ["t"], "description": "d"}, [("noted", "a", ("description", "tags"))]),
        (
            {"weight": 3.0, "comparison": "Which?"},
            [("reworded", "a", ("comparison",)), ("reweighted", "a", ("weight",))],
        ),
    ],
)
def test_edits_of_a_principle(update, expected):
    assert kinds(make(A, B), make(edited(A, **update), B)) == expected


def test_principles_come_and_go():
    found = changes(make(A), make(B))
    assert [(c.kind, c.subject) for c in found] == [("dropped", "a"), ("added", "b")]
    assert [c.old for c in found] == [A, None]
    assert [c.new for c in found] == [None, B]


def test_each_change_alone_and_together_they_are_the_edit():
    before = make(A, B)
    shots, new = FewShot(comparison=[EXAMPLE]), Principle(id="c", comparison="C")
    after = make(edited(B, weight=1.0, comparison="Which?"), new, few_shot=shots)
    alone = {(c.kind, c.subject): c.alone() for c in changes(before, after)}
    assert alone["dropped", "a"] == make(B)
    assert alone["added", "c"] == make(A, B, new)
    assert alone["reweighted", "b"] == make(A, edited(B, weight=1.0))
    assert alone["reworded", "b"] == make(A, edited(B, comparison="Which?"))
    assert alone["examples", "comparison"] == make(A, B, few_shot=shots)
    step = before
    while found := changes(step, after):
        step = found[0].alone()
    assert step == after
