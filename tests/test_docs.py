"""What README and docs tell readers to type, open or follow exists."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from cai.cli import app
from cai.constitution.explain import model_in
from cai.pipeline.method import METHOD
from cai.settings import CompareSettings, ModelSettings, OptimizerSettings, PipelineSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
FILE = re.compile(
    r"`((?:cai|tests|benchmarks|docs|pipelines|constitutions|examples)/[\w./-]+\.\w+)(?:::?\w+)?`"
)
TREE = typer.main.get_command(app)


def anchors(text):
    """Return the anchors of a page's headings, as GitHub makes them."""
    found, headings = [], re.findall(r"^#+ (.+?)\s*$", FENCE.sub("", text), re.MULTILINE)
    for heading in headings:
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return found


def commands(text):
    """Yield every command line with `cai`, `python -m` or `make` in code of a page."""
    blocks = [code for kind, code in FENCE.findall(text) if kind in ("", "sh", "bash", "console")]
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    lines = [line for code in blocks for line in code.replace("\\\n", " ").splitlines()]
    for line in (*lines, *inline):
        for part in re.split(r"&&|\|(?=\s)|;", line.split(" #")[0]):
            found = re.match(r"\s*(?:\$ |\w+=\S+ )*(?:\.venv/bin/)?(cai|python|make)\s(.*)", part)
            if found:
                yield found[1], found[2].strip()


def lines_of(program):
    return [
        pytest.param(line, id=f"{page.name}: {line[:60]}")
        for page, text in TEXTS.items()
        for name, line in dict.fromkeys(commands(text))
        if name == program
    ]


def words_of(line):
    try:
        return shlex.split(line.replace("…", " ").replace("<", " ").replace(">", " "))
    except ValueError:
        return line.split()


def targets():
    for page, text in TEXTS.items():
        for match in LINK.finditer(FENCE.sub("", text)):
            target = match[1] or match[2]
            if not re.match(r"https?:|mailto:", target):
                yield pytest.param(page, target, id=f"{page.name}: {target}")


@pytest.mark.parametrize(("page", "target"), targets())
def test_links_point_somewhere(page, target):
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    assert file.exists(), f"{page.name} links to {target}"
    if anchor:
        assert anchor in anchors(file.read_text(encoding="utf-8")), f"{page.name}: {target}"


def command_of(words):
    """Return the command that words name, and the words after it."""
    command = TREE
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("line", lines_of("cai"))
def test_commands_and_their_options_exist(line):
    words = words_of(line)
    if not words or re.match(r"[A-Z]", words[0]):  # `cai COMMAND`
        return
    command, rest = command_of(words)
    known = {option for param in command.params for option in param.opts + param.secondary_opts}
    known |= {"--help", "-h"}
    for word in rest:
        if re.match(r"--?[a-z]", word):
            assert word.split("=")[0] in known, f"`cai {line}`: {word}"
    for flag, change in pairwise(rest):
        if flag in ("--set", "--model-set", "--judge-set") and re.match(r"[a-z]", change):
            check_key(change.split("=")[0], flag, words)


def check_key(dotted, flag, words):
    """Say whether a setting exists; sections of another name have the stage's settings."""
    stages = {stage.name: stage.settings for stage in METHOD}
    roots = {"feedback": CompareSettings, "harmfulness": OptimizerSettings}
    model = roots.get(words[0], PipelineSettings) if flag == "--set" else ModelSettings
    steps = dotted.split(".")
    for number, step in enumerate(steps):
        if model is PipelineSettings and number == 0 and step not in model.model_fields:
            assert step in stages, dotted
            model = stages[step]
            continue
        if model is None:  # inside a value of any kind, such as `options`
            return
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        assert step in fields, f"there is no setting {dotted}"
        model = model_in(fields[step].annotation)


def settings_named(text):
    """Yield the settings that a page's code names, such as `compare.labels` or `ppo.steps: 10`."""
    names = "|".join([*(stage.name for stage in METHOD), "models"])
    for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        found = re.match(rf"((?:{names})(?:\.[a-z_]+)+)(?:$|[:=]|\s)", code)
        if found and not re.search(r"\.(md|py|jsonl?|ya?ml|txt|html|j2)$", found[1]):
            yield found[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_a_page_names_exist(page):
    for dotted in dict.fromkeys(settings_named(TEXTS[page])):
        if (ROOT / "cai" / dotted.replace(".", "/")).with_suffix(".py").exists():
            continue  # a module
        check_key(dotted, "--set", ["run"])


@pytest.mark.parametrize("line", lines_of("python"))
def test_modules_exist(line):
    found = re.match(r"-m ((?:benchmarks|cai)(?:\.\w+)*)", line)
    if found:
        path = ROOT / found[1].replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), line
    script = re.match(r"((?:tests|examples|benchmarks)/\S+\.py)", line)
    assert not script or (ROOT / script[1]).exists(), line


@pytest.mark.parametrize("line", lines_of("make"))
def test_targets_of_make_exist(line):
    known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words_of(line):
        if re.fullmatch(r"[a-z][a-z-]+", word):
            assert word in known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    missing = [name for name in FILE.findall(TEXTS[page]) if not (ROOT / name).exists()]
    assert not missing


def test_the_pages_have_what_is_tested():
    """A changed way of writing code would leave nothing to test."""
    assert len(lines_of("cai")) > 60
    assert len(lines_of("python")) > 10
    assert len(lines_of("make")) > 4
    assert len(list(targets())) > 60
