"""Wrong values of every setting are told in the words of a pipeline file, never in Python's."""

import datetime
import math
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from cai.constitution.explain import model_in
from cai.errors import CaiError
from cai.pipeline.load import load_pipeline, pipeline_settings
from cai.pipeline.method import METHOD
from cai.pipeline.validation import validated
from cai.settings import ModelSettings, PipelineSettings
from cai.settings.models import ModelsSettings
from cai.settings.wording import shown

DEEP = []
for _ in range(200):
    DEEP = [DEEP]
WRONG = {
    "null": None,
    "a truth value": True,
    "zero": 0,
    "a negative number": -1,
    "a fraction": 1.5,
    "infinity": math.inf,
    "not a number": math.nan,
    "a huge number": 10**30,
    "a huger number": 10**400,
    "a number beyond printing": 16**5000,
    "an empty text": "",
    "a word": "word",
    "a long text": "x" * 10_000,
    "an empty list": [],
    "a list": [1, None],
    "a deep list": DEEP,
    "an empty section": {},
    "a section": {"a": 1},
    "a section of numbers": {1: {2: 3}},
    "a date": datetime.date(2026, 11, 28),
}
FORBIDDEN = re.compile(
    r"tuple|pydantic|NoneType|\bNone\b|\bTrue\b|\bFalse\b|\bdict|\bint\b|\bfloat\b|\bstr\b|\bbool\b"
    r"|_parsing|_type|_error|[Ii]nput should|validat|constrained|literal\[|nullable|function-"
    r"|datetime|instance|iterab|BaseModel|fault of cai|Error\b|\binf\b|\bnan\b"
)
BASE = {
    "name": "n",
    "constitution": "playground",
    "models": {"helpful": {"path": "playground"}},
    "prompts": {"red_team": "a.txt", "helpful": "b.txt"},
}
MINIMAL = {
    "prompts": BASE["prompts"],
    "harmfulness": {"ratings": {"path": "r.jsonl"}},
    "server": {"base_url": "http://server/v1"},
    "gate": {"comparisons": "c.jsonl"},
}
"""What sections need beside the setting that is tried."""


def settings_of(model: type[BaseModel], above: tuple[str, ...] = ()):
    """Yield the keys of every setting in a section, and of those inside it."""
    for name, field in model.model_fields.items():
        keys = (*above, field.alias or name)
        yield keys
        inner = model_in(field.annotation)
        if inner and inner not in (PipelineSettings,) and len(keys) < 5:
            yield from settings_of(inner, keys)


EVERY = [
    *(keys for keys in settings_of(PipelineSettings) if keys[0] not in ("sections", "models")),
    *settings_of(ModelsSettings, ("models",)),
    *(keys for stage in METHOD for keys in settings_of(stage.settings, (stage.name,))),
]


def with_value(keys, value):
    """Return a pipeline in which one setting has a value, and its sections what they need."""
    data = {key: part if isinstance(part, str) else {**part} for key, part in BASE.items()}
    here = data
    for key in keys[:-1]:
        inner = here.get(key)
        if not isinstance(inner, dict):
            inner = MINIMAL.get(key, {})
            inner = {"path": "m", **inner} if keys[0] == "models" and len(keys) > 2 else inner
        here[key] = {**inner}
        here = here[key]
    here[keys[-1]] = value
    return data


@pytest.mark.parametrize("wrong", WRONG)
def test_no_wrong_value_of_a_setting_is_told_in_pythons_words(wrong):
    value, refused = WRONG[wrong], 0
    for keys in EVERY:
        try:
            pipeline_settings(with_value(keys, value))
        except CaiError as error:
            said, refused = str(error), refused + 1
            own_words = re.sub(r"\(it is .*\)|`[^`]*`|known are .*", "", said)
            assert not FORBIDDEN.search(own_words), (keys, said)
            assert len(own_words) < 1000, (keys, said)
    # All kinds of settings refuse it: without this, nothing was tried.
    assert refused > 20, refused


def test_every_setting_is_tried():
    """The walk over the settings finds what the classes have, at every depth."""
    dotted = {".".join(keys) for keys in EVERY}
    assert {"compare.labels.clamp", "ppo.guard.every", "models.helpful.server.base_url"} <= dotted
    assert {"sft.from", "prompts.red_team.labels", "compare.gate.comparisons.limit"} <= dotted
    assert all(get_args(PipelineSettings) == () for _ in dotted)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sft.from=3", "`sft.from` must be a list"),
        ("compare.principles=x", "`compare.principles` must be a whole number or 'all' (it is x)"),
        ("compare.principles=0", "`compare.principles` must be above 0 or 'all' (it is 0)"),
        ("ppo.kl_coef=.inf", "`ppo.kl_coef` must be a finite number (it is .inf)"),
        ("sft.epochs=1.5", "`sft.epochs` must be a whole number (it is 1.5)"),
        ("sft.epochs=", "`sft.epochs` must be a whole number (it is null)"),
        ("prompts.red_team={path: 3}", "`prompts.red_team.path` must be text (it is 3)"),
        ("compare.labels.clamp=[0.1]", "`compare.labels.clamp` must have more items"),
        ("compare.labels.clamp=[0, 1, 1]", "`compare.labels.clamp` must have at most 2 items"),
        ("name=a b", "`name` must have the form"),
        ("sft=[1]", "`sft` must be a section of keys and values"),
    ],
)
def test_messages_name_the_setting_as_the_file_does(change, said):
    with pytest.raises(CaiError) as refused:
        load_pipeline(Path("quickstart"), [change])
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "value", ["[" * 3000, "{a: " * 3000, "9" * 5000, "2026-99-99", "0x" + "f" * 6000]
)
def test_values_that_yaml_cannot_read_are_refused_in_one_line(value):
    with pytest.raises(CaiError) as refused:
        validated(ModelSettings, {"path": "m"}, [f"max_batch_tokens={value}"])
    assert len(str(refused.value)) < 400
    assert not FORBIDDEN.search(re.sub("`[^`]*`", "", str(refused.value)))


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_every_value_can_be_shown_on_a_short_line(value):
    assert len(shown(value)) < 70
    assert "\n" not in shown(value)


@pytest.mark.parametrize("stage", [None, 3, [], {"a": 1}, True])
def test_a_stage_that_is_no_name_is_named(stage):
    with pytest.raises(CaiError, match=r"`second\.stage` must be the name of a stage.*prompts, "):
        pipeline_settings({**BASE, "second": {"stage": stage}})
