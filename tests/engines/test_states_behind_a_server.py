"""Rows whose request a server refuses: who is asked in its place, and when a stage stops."""

import math

import pytest
from e2e.command import cai, metrics, rows
from scripted_server import ScriptedServer, chat, error

pytest.importorskip("openai", reason="pip install 'cai[openai]'")

PIPELINE = """\
name: judged
constitution: playground
models:
  helpful: HELPFUL
  feedback: JUDGE
  fallback: FALLBACK
prompts:
  red_team: {path: red_team.txt, format: text}
  helpful: {path: helpful.txt, format: text}
  held_out: 0.1
  near_duplicate: 1.0
"""
COMPARE = "compare: {max_new_tokens: 6, few_shot: 0}\n"
COUNT = 40


def filtered(body):
    return error(400, "The prompt triggered the content management policy.", "content_filter")


def too_long(body):
    return error(400, "This model's maximum context length is 4096 tokens.")


def cut_by_a_filter(body):
    return chat("(A)", finish="content_filter", listed=[("(A", {"(A": 0.0})])


def number_of(body):
    """Return which prompt a request is about."""
    text = " ".join(message["content"] for message in body["messages"])
    return int(text.split("thing ")[1].split("?")[0])


def judge(body):
    return chat("(A)", listed=[("(", {"(": 0.0}), ("A", {"A": math.log(0.8), "B": math.log(0.2)})])


def speaker(refuse=None, every=1):
    """Answer each prompt in its own words; refuse every so-manieth one in the given way."""
    said = iter(range(10**6))

    def answer(body):
        if refuse and number_of(body) % every == 0:
            return refuse(body)
        return chat(f"Answer {next(said)}.")

    return answer


def judging(refuse, every):
    return lambda body: refuse(body) if number_of(body) % every == 0 else judge(body)


@pytest.fixture
def served(tmp_path):
    """Write a pipeline whose models are on three servers; returns how to run it, and them."""
    (tmp_path / "red_team.txt").write_text("".join(f"Steal thing {n}?\n" for n in range(COUNT)))
    (tmp_path / "helpful.txt").write_text("".join(f"Bake thing {n}?\n" for n in range(COUNT)))
    with (
        ScriptedServer(speaker()).running() as speaks,
        ScriptedServer(judge).running() as judges,
        ScriptedServer(judge).running() as falls_back,
    ):
        servers = {"HELPFUL": speaks, "JUDGE": judges, "FALLBACK": falls_back}

        def run(sections, *changes, fallback=True):
            text = PIPELINE + sections
            for name, server in servers.items():
                one = f"{{path: judge, engine: openai, server: {{base_url: {server.url}}}}}"
                text = text.replace(name, one if fallback or name != "FALLBACK" else "null")
            (tmp_path / "judged.yaml").write_text(text)
            for server in servers.values():
                server.asked.clear()
            sets = [part for change in changes for part in ("--set", change)]
            return cai("run", tmp_path / "judged.yaml", "--out", tmp_path / "run", *sets)

        run.folder = tmp_path / "run"
        yield run, speaks, judges, falls_back


@pytest.mark.parametrize("refuse", [filtered, too_long, cut_by_a_filter])
@pytest.mark.parametrize("every", [1, 4])
def test_the_fallback_judges_what_the_feedback_model_refuses(served, refuse, every):
    run, _, judges, falls_back = served
    judges.answer = judging(refuse, every)
    done = run(COMPARE)
    assert done.returncode == 0, done.stdout + done.stderr
    state = "too_long" if refuse is too_long else "refused"
    written = metrics(run.folder, "compare")
    judgements = rows(run.folder / "compare/judgements.jsonl")
    lost = {row["key"] for row in judgements if row["state"] == state}
    kept = len(judgements) - len(lost)
    assert len(lost) == len(judgements) if every == 1 else 0 < len(lost) < kept
    assert written["judgement_states"] == {state: len(lost), **({"ok": kept} if kept else {})}
    # Each is asked about in both orders, by the other model, and by no other.
    assert len(falls_back.asked) == 2 * len(lost)
    assert {number_of(body) % every for body in falls_back.asked} == {0}
    assert written["fallback_states"] == {"ok": len(lost)}
    assert written["states"] == {"ok": len(judgements)}
    instead = {row["instead_of"] for row in rows(run.folder / "compare/fallback.jsonl")}
    assert instead == lost
    assert "compare: up to date" in run(COMPARE).stdout
    assert not judges.asked
    assert not falls_back.asked


def test_what_the_fallback_refuses_too_has_no_label(served):
    run, _, judges, falls_back = served
    judges.answer, falls_back.answer = judging(filtered, 1), judging(too_long, 2)
    done = run(COMPARE)
    assert done.returncode == 0, done.stdout + done.stderr
    written = metrics(run.folder, "compare")
    assert written["states"] == written["fallback_states"]
    assert set(written["states"]) == {"ok", "too_long"}


def test_a_judge_that_refuses_most_stops_the_stage_and_a_better_one_goes_on(served):
    run, speaks, judges, _ = served
    judges.answer = judging(filtered, 1)
    stopped = run(COMPARE, fallback=False)
    assert stopped.returncode == 1
    said = " ".join(stopped.stderr.split())
    assert "rows are `refused`, more than `compare.max_state_share` allows (0.5)" in said
    assert "content management policy" in said
    assert len(speaks.asked) > COUNT
    judges.answer = judge
    done = run(COMPARE, fallback=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not speaks.asked
    assert len(judges.asked) == 2 * len(rows(run.folder / "compare/judgements.jsonl"))


@pytest.mark.parametrize(
    ("section", "stage"),
    [("revise: {rounds: 1}\n", "revise"), (COMPARE, "compare"), ("evaluate: {}\n", "evaluate")],
)
def test_a_model_that_answers_little_stops_each_stage_unless_it_may(served, section, stage):
    run, speaks, _, _ = served
    speaks.answer = speaker(lambda body: chat(""))
    changes = ["prompts.held_out=0.7", "evaluate.samples_per_side=25"][: 2 * (stage == "evaluate")]
    stopped = run(section, *changes)
    assert stopped.returncode == 1
    said = " ".join(stopped.stderr.split())
    assert "rows are `unparsed`" in said
    assert f"`{stage}.max_state_share`" in said
    speaks.answer = speaker(lambda body: chat(""), every=4)
    done = run(section, *changes)
    assert done.returncode == 0, done.stdout + done.stderr
    states = metrics(run.folder, stage)["states"]
    assert set(states) == {"ok", "unparsed"}
    assert f"{states['unparsed']} unparsed" in done.stdout


def test_a_share_of_one_lets_a_stage_lose_what_it_likes(served):
    run, speaks, _, _ = served
    speaks.answer = speaker(lambda body: filtered(body) if "Steal" in str(body) else chat("Bread."))
    sections = "revise: {rounds: 1, max_state_share: 0.9}\n"
    assert "No critique chain" in " ".join(run(sections).stderr.split())


def test_an_evaluation_counts_refusals_by_a_filter_and_does_not_stop(served):
    run, speaks, _, _ = served
    speaks.answer = speaker(filtered)
    section = "evaluate: {samples_per_side: 25}\n"
    done = run(section, "prompts.held_out=0.7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(metrics(run.folder, "evaluate")["states"]) == {"refused"}


def test_cai_feedback_stops_too_and_says_why(tmp_path):
    known = tmp_path / "known.jsonl"
    known.write_text(
        "".join(
            f'{{"prompt": "Steal thing {n}?", "chosen": "No {n}.", "rejected": "Yes {n}."}}\n'
            for n in range(60)
        )
    )
    with ScriptedServer(judging(filtered, 1)).running() as server:
        arguments = ("feedback", known, "--model", f"judge@{server.url}", "--set", "few_shot=0")
        stopped = cai(*arguments)
        asked = len(server.asked)
        server.answer = judging(filtered, 3)
        measured = cai(*arguments)
    assert stopped.returncode == 1
    said = " ".join(stopped.stderr.split())
    assert "of 60 rows are `refused`, more than `max_state_share` allows" in said
    assert "content management policy" in said
    assert asked <= 60
    assert measured.returncode == 0, measured.stderr
    assert "20 judgements are `refused`. The first:" in " ".join(measured.stdout.split())
