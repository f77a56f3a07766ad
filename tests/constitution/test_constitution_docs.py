"""The YAML in docs/constitutions.md is what it says it is."""

import re
from pathlib import Path

import pytest
import yaml

from cai.constitution import shipped_constitutions
from cai.constitution.check import check_constitution

PAGE = (Path(__file__).parents[2] / "docs" / "constitutions.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_sound(tmp_path, example):
    """Excerpts are completed with what they leave out."""
    data = {"schema": 1, "name": "x", "extends": ["harmless"]} | yaml.safe_load(example)
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(data))
    assert check_constitution(path) == []


def test_every_built_in_constitution_is_named():
    assert all(f"| `{name}` |" in PAGE for name in shipped_constitutions())
