"""The served page: for the one who has the link, on this machine, and nobody else."""

import base64
import hashlib
import re
import secrets

import pytest
from served import TOKEN, make_desk
from starlette.testclient import TestClient

from cai.view import guard
from cai.view.app import make_app
from cai.view.guard import MOST_BYTES

HOST = "127.0.0.1:8000"
BASE = f"http://{HOST}"
PATHS = ("/", "/api/constitution", "/api/try", "/api/save")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    desk = make_desk(tmp_path_factory.mktemp("desk"))
    with TestClient(make_app(desk, token=TOKEN, hosts={HOST}), base_url=BASE) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü", "%00"])
def test_without_the_token_nothing_is_told(client, path, token):
    answer = client.get(f"/{token}{path}")
    assert answer.status_code == 403
    assert answer.text == "Open the link that `cai view` printed: it has the token.\n"
    assert client.post(f"/{token}{path}", json={}).status_code == 403


def test_tokens_are_compared_in_constant_time(client, monkeypatch):
    compared, real = [], secrets.compare_digest

    def spy(given, wanted):
        compared.append((given, wanted))
        return real(given, wanted)

    monkeypatch.setattr(guard.secrets, "compare_digest", spy)
    client.get("/guess/")
    assert compared == [(b"guess", TOKEN.encode())]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1", "127.0.0.1:80", "localhost:8001", ""]
)
def test_a_name_that_was_bound_anew_does_not_count_as_this_host(client, host):
    answer = client.get(f"/{TOKEN}/", headers={"host": host})
    assert answer.status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8000"])
def test_requests_of_other_pages_are_refused(client, origin):
    for method in ("get", "post"):
        answer = getattr(client, method)(f"/{TOKEN}/api/save", headers={"origin": origin})
        assert answer.status_code == 403
    mine = client.get(f"/{TOKEN}/api/constitution", headers={"origin": BASE})
    assert mine.status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_form_cannot_post(client, kind):
    body = b'{"version": "", "edits": []}'
    answer = client.post(f"/{TOKEN}/api/save", content=body, headers={"content-type": kind})
    assert answer.status_code == 415


def test_the_policy_in_the_header_lets_only_the_pages_own_script_run(client):
    answer = client.get(f"/{TOKEN}/")
    rules = dict(
        rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";")
    )
    script = re.search(r'<script type="module">(.*?)</script>', answer.text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_no_other_origin_is_let_in_and_nothing_is_kept(client):
    answers = [
        client.options(f"/{TOKEN}/api/try", headers={"origin": BASE}),
        client.get(f"/{TOKEN}/"),
        client.get(f"/{TOKEN}/api/constitution"),
        client.get("/"),
    ]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert answers[0].status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "report.json",
        "pipeline.yaml",
        "../pipeline.yaml",
        "%2e%2e/%2e%2e/etc/passwd",
        "api/..%2f..%2fpipeline.yaml",
        "//etc/passwd",
        "api/constitution/../../mine.yaml",
    ],
)
def test_there_are_no_files_to_reach(client, path):
    assert client.get(f"/{TOKEN}/{path}").status_code in (403, 404)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "The request: it is not valid JSON."),
        (b"{", "The request: it is not valid JSON."),
        (b"\xff\xfe", "The request: it is not valid JSON."),
        (b"[]", "The request: it must be a section of keys and values"),
        (b"{}", "`version` is missing"),
        (b'{"version": 1, "edits": []}', "`version` must be text"),
        (b'{"version": "", "edits": [], "more": 1}', "`more` is unknown"),
        (b'{"version": "", "edits": [{"principle": "x"}]}', "`edits.0.half` is missing"),
        (b'{"version": "\\ud800", "edits": []}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_bodies_that_cannot_be_read_are_one_sentence(client, body, words):
    headers = {"content-type": "application/json"}
    answer = client.post(f"/{TOKEN}/api/save", content=body, headers=headers)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    "wrong",
    [{"rounds": 0}, {"rounds": 99}, {"seed": -1}, {"prompts": [{}]}, {"prompts": [{"text": ""}]}],
)
def test_wishes_have_bounds(client, wrong):
    body = {"version": "", "edits": [], "prompts": [], **wrong}
    assert client.post(f"/{TOKEN}/api/try", json=body).status_code == 400


def test_a_huge_body_is_not_read_to_its_end(client):
    sent = 0

    def chunks():
        nonlocal sent
        for _ in range(50):
            sent += 1
            yield b" " * (MOST_BYTES // 10)

    headers = {"content-type": "application/json"}
    answer = client.post(f"/{TOKEN}/api/try", content=chunks(), headers=headers)
    assert answer.status_code == 413
    assert "longer than 1,000,000 bytes" in answer.json()["error"]
