"""The table of docs/design.md: which room may import which, and what must stay light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cai"
OPEN_TO_ALL = {"errors", "settings"}
DATA = {"data.conversation", "data.records"}
ROWS = {"data.rows", "data.states", "data.store", *DATA}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "settings": set(),
    "data": {"playground.sources", "playground.world"},
    "models": DATA,
    "constitution": DATA,
    "templates": {"constitution", *DATA},
    "engines": {"models", *DATA},
    "revise": {
        "constitution",
        "data.prompts",
        "data.words",
        "templates",
        "engines",
        "evaluate.refusals",
        *ROWS,
    },
    "compare": {
        "constitution",
        "data.prompts",
        "engines",
        "evaluate.rates",
        "evaluate.refusals",
        "templates",
        *ROWS,
    },
    "samples": {"engines", *ROWS},
    "training": {"models", *ROWS},
    "ppo": {
        "compare",
        "constitution",
        "engines",
        "evaluate.refusals",
        "evaluate.style",
        "models",
        "templates",
        "training",
        *ROWS,
    },
    "playground": {"constitution", "engines", "models", "templates", *DATA},
    "doctor": {"engines", "models", "ppo", "training", *DATA},
    "evaluate": {"compare", "data.prompts", "engines", "playground.grader", "templates", *ROWS},
    "workbench": {
        "compare",
        "constitution",
        "data.prompts.near_duplicates",
        "engines",
        "evaluate.rates",
        "revise",
        "templates",
        *ROWS,
    },
    "report": {
        "compare",
        "constitution",
        "data.store",
        "evaluate",
        "revise",
        "workbench.statistics",
        "__version__",
        *DATA,
    },
    "view": {
        "compare",
        "constitution",
        "data.store",
        "engines",
        "report",
        "revise",
        "workbench.trying",
        *DATA,
    },
    "__main__": {"cli"},
}
"""Room to rooms; `pipeline` may import all but `cli`, and `cli` everything."""

LONGEST_FILE, LONGEST_FUNCTION = 400, 60
"""Lines; a function's are counted without its docstring."""
MOST_ROOMS = 19

COMMANDS = [f"cai.cli.{path.stem}" for path in sorted((PACKAGE / "cli").glob("*.py"))]
LIGHT = ["cai", *COMMANDS, "cai.constitution", "cai.pipeline.load", "cai.revise", "cai.compare"]
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


def test_the_top_of_the_package_is_a_short_list_of_rooms():
    rooms = {room(path) for path in FILES} - {"__main__", "errors"}
    assert len(rooms) <= MOST_ROOMS, sorted(rooms)
    assert rooms - {"pipeline", "cli"} <= set(ALLOWED)


def test_files_and_functions_are_short():
    long: list[str] = []
    for path in FILES:
        text, name = path.read_text(), str(path.relative_to(PACKAGE))
        lines = text.count("\n")
        if lines > LONGEST_FILE:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node, clean=False) is not None:
                    lines -= node.body[0].end_lineno - node.body[0].lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{name}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)


def imported_at_once(nodes):
    """Yield what a module imports when it is imported: not in functions, not for types alone."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            yield from imported_at_once([*node.body, *node.orelse])


def test_no_modules_import_each_other_in_a_circle():
    modules = {
        "cai."
        + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    graph = {
        name: {
            found if found in modules else found.rpartition(".")[0]
            for found in imported_at_once(ast.parse(path.read_text()).body)
            if found.startswith("cai.")
        }
        for name, path in modules.items()
    }
    TopologicalSorter(graph).prepare()  # names a circle, if there is one


def test_only_evaluate_knows_the_ground_truth():
    """Training that could see the grader would make every number of the playground worthless."""
    knowing = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any("playground.grader" in name for name in imports(path))
    }
    assert all(name.startswith(("evaluate/", "playground/gates")) for name in knowing), knowing


def test_light_modules_stay_light():
    """What answers in under a second must not load what takes seconds to import."""
    script = (
        f"import importlib, sys\nfor name in {LIGHT!r}:\n    importlib.import_module(name)\n"
        f"    print(*[name + ' loads ' + heavy for heavy in {HEAVY!r} & set(sys.modules)])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_the_command_line_loads_no_room_before_a_command_is_asked_for():
    script = "import sys, cai.cli; print(*[n for n in sys.modules if n.startswith('cai.')])"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert {name.split(".")[1] for name in result.stdout.split()} == {"cli", "errors"}
