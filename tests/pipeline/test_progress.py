"""Progress: a bar on a terminal, rare lines elsewhere, nothing that model text could break."""

import io

from rich.console import Console

from cai.pipeline import progress
from cai.pipeline.progress import Progress


def shown(terminal, use):
    out = io.StringIO()
    use(Progress(Console(file=out, force_terminal=terminal, width=120)))
    return out.getvalue()


def count(total):
    def use(reporter):
        with reporter.task("revise", total) as advance:
            for _ in range(total):
                advance("[not markup]")

    return use


def test_without_a_terminal_lines_are_rare(monkeypatch):
    assert shown(False, count(1000)) == ""
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    lines = shown(False, count(3)).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("  revise: 2/3, ")
    assert lines[1].endswith("s left [not markup]")


def test_a_terminal_gets_a_bar():
    assert "3/3" in shown(True, count(3))


def test_training_shows_what_a_person_watches(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)

    def use(reporter):
        with reporter.training("ppo") as on_step:
            on_step({"step": 3, "steps": 4, "objective/scores": 0.5, "other": 9.0})
            on_step({"step": 4, "steps": 4, "objective/scores": 0.75, "objective/kl": 1.5})

    lines = shown(False, use).splitlines()
    assert lines[0].startswith("  ppo: 1/2 ")
    assert lines[1].endswith("score 0.75, KL 1.50")


def test_rows_show_how_fast_tokens_go_in_and_out(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    tokens = iter([100, 100 + 6 * 300])

    def use(reporter):
        with reporter.rows("revise", 2, tokens=lambda: next(tokens)) as advance:
            for _ in range(4):
                next(clock)
            advance()

    assert shown(False, use).splitlines()[0].endswith(" 300 tokens/s")


def test_loading_the_model_says_nothing_of_the_time_that_is_left(monkeypatch):
    clock = iter([0.0, 600.0, 602.0, 604.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 1.0)

    def use(reporter):
        with reporter.task("revise", 5) as advance:
            for _ in range(3):
                advance("")

    said = [line.strip() for line in shown(False, use).splitlines()]
    assert said == ["revise: 1/5", "revise: 2/5, 0.5/s, 6 s left", "revise: 3/5, 0.5/s, 4 s left"]


def test_nothing_to_do_shows_nothing():
    assert shown(False, count(0)) == ""
