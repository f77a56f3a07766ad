"""The table of docs/design.md: which room may import which, and what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cai"
OPEN_TO_ALL = {"errors", "settings"}
DATA = {"conversation", "records"}

ALLOWED: dict[str, set[str]] = {
    "conversation": {"records"},
    "records": {"conversation"},
    "errors": set(),
    "settings": set(),
    "refusals": set(),
    "style": set(),
    "chat": {"conversation"},
    "constitution": DATA,
    "templates": {"constitution", *DATA},
    "store": {"records"},
    "tables": {"store"},
    "rows": {"records", "store"},
    "prompts": {"playground.sources", "playground.world", *DATA},
    "models": {"chat"},
    "engines": {"chat", "models", *DATA},
    "revise": {"constitution", "templates", "engines", "rows", *DATA},
    "compare": {"constitution", "templates", "engines", "refusals", "rows", *DATA},
    "label_quality": {"compare", "evaluate.rates", "prompts", *DATA},
    "grow": {"templates", "engines", "rows", "prompts.near_duplicates", *DATA},
    "training": {"chat", "models", "store", *DATA},
    "ppo": {
        "chat",
        "engines",
        "models",
        "refusals",
        "store",
        "style",
        "training",
        *DATA,
    },
    "playground": {"chat", "constitution", "engines", "models", "templates", *DATA},
    "evaluate": {
        "compare",
        "engines",
        "playground.grader",
        "prompts",
        "refusals",
        "rows",
        "store",
        "style",
        "templates",
        *DATA,
    },
    "workbench": {
        "constitution",
        "engines",
        "evaluate.rates",
        "revise",
        "compare",
        "rows",
        "store",
        "templates",
        *DATA,
    },
    "report": {
        "compare",
        "constitution",
        "evaluate",
        "label_quality.measure",
        "store",
        "workbench.statistics",
        "__version__",
        *DATA,
    },
    "view": {
        "compare",
        "constitution",
        "engines",
        "report",
        "revise",
        "store",
        "workbench.trying",
        *DATA,
    },
    "__main__": {"cli"},
}
"""Room to rooms; `pipeline` may import all but `cli`, and `cli` everything."""

LIGHT = ["cai", "cai.cli", "cai.constitution", "cai.pipeline.load", "cai.revise", "cai.compare"]
HEAVY = {"torch", "transformers", "trl", "datasets", "vllm", "pyarrow"}


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Yield every module of cai that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path):
    return {".".join(name.split(".")[1:]) for name in imports(path) if name.startswith("cai.")}


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "__init__.py" or p.parent != PACKAGE]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_the_table_allows(path):
    here = room(path)
    if here in ("cli", "pipeline"):
        assert here == "cli" or not {n for n in rooms_imported(path) if n.split(".")[0] == "cli"}
        return
    allowed = ALLOWED[here] | OPEN_TO_ALL | {here}
    for name in rooms_imported(path):
        top = name.split(".")[0]
        assert top in allowed or any(name.startswith(a) or a.startswith(name) for a in allowed), (
            f"{here} may not import cai.{name}"
        )


def test_only_evaluate_knows_the_ground_truth():
    """Training that could see the grader would make every number of the playground worthless."""
    knowing = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any("playground.grader" in name for name in imports(path))
    }
    assert all(name.startswith(("evaluate/", "playground/gates")) for name in knowing), knowing


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_stay_light(module):
    """What answers in under a second must not load what takes seconds to import."""
    script = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
