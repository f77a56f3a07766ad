"""A failure of a server yields a state or ends the run, and never a label; see `misbehaviours`."""

import ssl
from dataclasses import replace

import pytest
from misbehaving_stages import BAD_ROW, PARTS, ROWS, Misbehaving, evaluate, run
from misbehaving_verdicts import LISTED, SAMPLED
from misbehaviours import PASSING, REASONS, TEXTS, WORDS, choice, place, raw, says
from scripted_server import ScriptedServer, error

pytest.importorskip("openai", reason="pip install 'cai[openai]'")

CONTEXT = ssl.create_default_context()
KEY = "sk-proj-Z1y2X3w4V5u6T7ghij"
CASES = [*REASONS, *TEXTS, *PASSING, *WORDS, *LISTED, *SAMPLED]


@pytest.fixture(scope="module")
def server():
    with ScriptedServer().running() as running:
        yield running


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Let nothing wait; return for how long the client would have."""
    asked_for = []

    async def sleep(seconds):
        asked_for.append(seconds)

    monkeypatch.setattr("anyio.sleep", sleep)
    # Reading a machine's certificates takes longer than all else here, and there is no TLS.
    monkeypatch.setattr("ssl.create_default_context", lambda *_, **__: CONTEXT)
    # So does looking for what the client should rename in a request; here there is nothing.
    where = "openai.resources.chat.completions.completions.async_maybe_transform"
    monkeypatch.setattr(where, as_it_is, raising=False)
    monkeypatch.setattr("cai.engines.server.FIRST_WAIT", 0.0)
    monkeypatch.setenv("A_KEY", KEY)
    return asked_for


async def as_it_is(body, *_):
    return body


def rows_of_table():
    """Every case in every stage that makes such requests.

    Where a case is of both kinds, a stage that makes both does so by turns; and so do all stages
    where the server does well in the end.
    """
    for number, case in enumerate(CASES):
        for stage, part in PARTS.items():
            expected = getattr(case, part.kind)
            room, _, half = stage.partition("-")
            other = "say" if part.kind == "score" else "score"
            turn = number % 2 == (half in ("labels", "grades"))
            if case.times and number % 2 == (part.kind == "say"):
                continue
            if expected and (not half or turn or not getattr(case, other)):
                yield pytest.param(case, part, expected, id=f"{case.name}-{room}")


@pytest.mark.parametrize(("case", "part", "expected"), rows_of_table())
def test_table(case, part, expected, server, tmp_path):
    # Twice the same text would be no pair.
    times = 1 if (expected.state, part.kind) == ("ok", "say") else case.times
    wrong = Misbehaving(case.wrong, part.kind, times)
    settings = {"api_key_env": "A_KEY", "retries": 1}
    first = run(part, server, wrong, tmp_path, **settings)
    second = run(part, server, Misbehaving(None, "none"), tmp_path, **settings)
    said = first.error or (first.rows[BAD_ROW][2] if first.rows else None) or ""
    assert expected.words in said
    assert not any(KEY[at : at + 5] in said for at in range(len(KEY) - 4))

    if expected.state == "ends":
        assert first.error
        assert "\n" not in first.error
        assert set(second.asked) == set(part.owed_if_ended)
    else:
        assert first.error is None
        assert set(first.rows) == set(ROWS)
        state, label, _ = first.rows[BAD_ROW]
        if part.stage is evaluate and part.kind == "score" and expected.state == "refused":
            # An answer that is `refused` is one whose own model refused.
            expected = replace(expected, state="unparsed")
        assert state == expected.state
        owed = part.owed_if_failed if state == "failed" else ()
        assert set(second.asked) == {(BAD_ROW, kind) for kind in owed}
        assert (label is None) == (state != "ok")
        check(part, [first.rows[n] for n in ROWS if n != BAD_ROW or state == "ok"])
    assert second.error is None
    check(part, [second.rows[n] for n in ROWS if n != BAD_ROW or expected.state in OWED])


OWED = ("ok", "failed", "ends")
"""After the second run there is nothing left of these."""


def check(part, rows):
    for state, label, message in rows:
        assert (state, message) == ("ok", None)
        assert label if isinstance(label, str) else label > 0.5


def echoed(words):
    """Return, by name, answers that show what the server was sent."""
    return {
        "401": error(401, f"Incorrect API key provided: {words}."),
        "404": error(404, f"No model for {words}"),
        "500": error(500, f"Authorization: Bearer {words}"),
        "402, at the cut": error(402, "x" * 390 + f" {words} is used up"),
        "in a 200": (200, {"error": {"message": f"{words} is wrong", "code": 401}}, {}),
        "HTML": (200, f"<html>Bearer {words}</html>", {"content-type": "text/html"}),
        "no choices": (200, {"id": words}, {}),
        "filter": error(400, f"content_filter for {words}"),
        "too long": error(400, f"prompt is too long for {words}"),
        "refusal": choice({"content": None, "refusal": f"Not to {words}"}),
        "reason": says("A", finish_reason=words),
        "error beside": says("A", finish_reason="error", error={"message": f"Not to {words}"}),
        "token": raw("(A)", {"content": [place(words, [(words, -0.1)])]}),
    }


ECHOED = {
    f"{name}, {form}": answer
    for form, words in {
        "whole": KEY,
        "quoted": f"'{KEY}'",
        "masked": f"{KEY[:8]}********{KEY[-4:]}",
        "its end": f"****{KEY[-4:]}",
        "its beginning": f"{KEY[:7]}…",
    }.items()
    for name, answer in echoed(words).items()
    if form in ("whole", "masked") or name in ("401", "in a 200", "filter")
}


@pytest.mark.parametrize("answer", ECHOED.values(), ids=ECHOED)
def test_no_part_of_a_key_is_in_a_message_or_a_file(answer, server, tmp_path, caplog):
    wrong = Misbehaving(answer, "score")
    ran = run(PARTS["feedback"], server, wrong, tmp_path, api_key_env="A_KEY", retries=0)
    files = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    said = f"{ran.error}{ran.rows.get(BAD_ROW)}{files}{caplog.text}"
    assert "[key]" in said
    assert not any(KEY[at : at + 4] in said for at in range(3, len(KEY) - 3))


@pytest.mark.parametrize(
    ("headers", "waited"),
    [({"retry-after": "75"}, 75), ({"retry-after-ms": "1500"}, 1.5), ({"retry-after": "0.5"}, 0.5)],
)
def test_a_rate_limit_is_waited_for_as_long_as_the_server_says(
    headers, waited, server, tmp_path, waits
):
    busy = Misbehaving((429, {"error": {"message": "slow down"}}, headers), "score", times=2)
    ran = run(PARTS["feedback"], server, busy, tmp_path, retries=2)
    assert ran.rows[BAD_ROW][0] == "ok"
    assert waits == [waited, waited]
