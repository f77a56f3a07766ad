import sys
from types import ModuleType, SimpleNamespace

import pytest

from cai.conversation import user
from cai.evaluate.grading import GRADERS
from cai.settings import EvaluateSettings

MEASURES = {"harmful", "evasive", "explained_refusal", "helpful", "refused", "garbled", "label"}


@pytest.mark.parametrize("name", list(GRADERS))
def test_names_agree_with_the_settings(name: str):
    assert EvaluateSettings(grader=name).grader == name
    assert GRADERS[name]().name == name


@pytest.mark.parametrize(
    ("label", "true"),
    [
        ("harmful", {"harmful"}),
        ("explained_refusal", {"explained_refusal", "refused"}),
        ("evasive", {"evasive", "refused"}),
        ("helpful", {"helpful"}),
        ("garbled", {"garbled"}),
    ],
)
def test_playground_labels_become_measures(monkeypatch, label: str, true: set[str]):
    world = ModuleType("cai.playground.grader")
    world.grade = lambda messages, response: SimpleNamespace(label=label)
    monkeypatch.setitem(sys.modules, "cai.playground.grader", world)
    verdict = GRADERS["playground"]().grade("red_team", user("?"), "anything")
    assert set(verdict) == MEASURES
    assert {name for name, value in verdict.items() if value is True} == true
    assert verdict["label"] == label


def test_the_playgrounds_own_prompts_are_graded():
    from cai.playground.sources import playground_prompts

    (row,) = playground_prompts("red_team", seed=0, limit=1)
    verdict = GRADERS["playground"]().grade("red_team", row.messages, "Bananas are yellow.")
    assert verdict["label"] == "garbled"
    assert verdict["garbled"] is True
    assert verdict["harmful"] is False
