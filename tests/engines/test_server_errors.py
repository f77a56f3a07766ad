"""What a server's errors mean for the run, without the key; `test_misbehaviours` has all kinds."""

from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.engines.error_bodies import complaints_in, words_of
from cai.engines.server import report_of
from cai.engines.server_errors import NoLogprobsError, explained, key_of, without_key
from cai.errors import CaiError
from cai.settings import ModelSettings

openai = pytest.importorskip("openai", reason="pip install 'cai[openai]'")
httpx = import_module(openai.DefaultHttpxClient.__mro__[-2].__module__.partition(".")[0])
"""The client that this version of openai stands on."""

KEY = "sk-proj-0123456789abcdefghij"


def settings(**server):
    return ModelSettings(
        path="m",
        engine="openai",
        server={"base_url": "http://server/v1", "retries": 0, "api_key_env": "A_KEY", **server},
    )


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)


def raised(status, body):
    """Return the error that the client raises for a reply."""
    reply = {"text": body} if isinstance(body, str) and not body.startswith("{") else {"json": body}
    transport = httpx.MockTransport(lambda _: httpx.Response(status, **reply))
    client = openai.OpenAI(
        base_url="http://server/v1",
        api_key=KEY,
        max_retries=0,
        http_client=httpx.Client(transport=transport),
    )
    with pytest.raises(openai.OpenAIError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    return caught.value


def message(words, **more):
    return {"error": {"message": words, **more}}


ENDS_THE_RUN = [
    (401, message("Incorrect API key provided: sk-proj-01*****ghij."), "refuses the key in the"),
    (403, message("You have no access to this model"), "You have no access to this model"),
    (404, message("no such model"), "knows no model `m`"),
    (429, message("slow down"), "Lower `server.concurrency`"),
    (500, message("it broke"), "status 500 .it broke"),
    (400, message("temperature must be 1"), "status 400 .temperature must be 1"),
    (418, "I am a teapot", "status 418 .I am a teapot"),
]


@pytest.mark.parametrize(("status", "body", "said"), ENDS_THE_RUN)
def test_what_the_server_is_guilty_of_ends_the_run_in_its_words(status, body, said):
    found = explained(raised(status, body), settings())
    assert type(found) is CaiError
    with pytest.raises(CaiError, match=said):
        raise found
    assert KEY not in str(found)
    assert "ghij" not in str(found)


PAGES = [
    "<!DOCTYPE html>\n<html><head><title>Access &amp; denied</title></head><body>x</body></html>",
    "  <html lang=en><body><h1>Access <b>&amp;</b> denied</h1></body></html>",
    "<!-- proxy --><HTML><TITLE>Access &amp; denied\n</TITLE>guardrail policy violation</HTML>",
]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("status", [401, 403, 404, 407, 500, 502, 503])
def test_a_page_of_a_firewall_is_no_refusal_of_the_key(status, page):
    found = explained(raised(status, page), settings())
    assert type(found) is CaiError
    assert f"status {status} and a web page: Access & denied" in str(found)
    assert "firewall" in str(found)
    assert "A_KEY" not in str(found)
    assert "<" not in str(found)


def test_a_page_without_a_title_is_known_by_its_type():
    error = raised(403, "Go away")
    assert "refuses the key" in str(explained(error, settings()))
    error.response.headers["content-type"] = "text/html; charset=utf-8"
    assert "a web page. An API" in str(explained(error, settings()))


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["message", "error", "detail", "msg", "loc", "param", "type", "x"]), inner),
))  # fmt: skip
def test_words_are_found_in_every_shape_of_body(body):
    complaints = list(complaints_in(body))
    assert words_of(body) == (complaints[0].text if complaints else "")
    assert all(one.text and one.words.endswith(one.text) for one in complaints)


def test_a_validator_that_names_the_field_gives_no_log_probabilities():
    told = {"type": "extra_forbidden", "loc": ["body", "top_logprobs"], "msg": "Extra inputs"}
    body = {"detail": [{**told, "input": 20}]}
    assert isinstance(explained(raised(422, body), settings()), NoLogprobsError)
    other = {"detail": [{**told, "loc": ["body", "seed"], "input": "logprobs are nice"}]}
    assert not isinstance(explained(raised(422, other), settings()), NoLogprobsError)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "Unsupported parameter: 'logprobs' is not supported with this model."),
        (403, "You are not allowed to request logprobs from this model"),
        (500, "logprobs is not implemented"),
    ],
)
def test_a_server_without_log_probabilities_is_told_from_others(status, words):
    found = explained(raised(status, message(words)), settings())
    assert isinstance(found, NoLogprobsError)
    assert found.words == words


@pytest.mark.parametrize(
    "key", [f"{KEY}\r", f"{KEY}\n", f" {KEY}", f"{KEY[:9]}\n{KEY[9:]}", f"{KEY}é", "“quoted”"]
)
def test_a_key_that_cannot_be_sent_is_named_by_its_variable_alone(monkeypatch, key):
    monkeypatch.setenv("A_KEY", key)
    with pytest.raises(CaiError, match="A_KEY") as caught:
        key_of(settings().server)
    assert KEY[:6] not in str(caught.value)
    assert KEY[-4:] not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"Bearer {KEY}",
        f"b'Bearer {KEY}\\r'",
        f"key {KEY[:8]}…{KEY[-4:]} is wrong",
        f"key ****{KEY[-4:]} is wrong",
        f"{KEY[:12]}",
        f"ends in {KEY[-6:]}",
    ],
)
def test_no_part_of_a_key_is_in_a_message(text):
    shown = without_key(text, settings().server)
    assert "[key]" in shown
    assert not any(KEY[n : n + 5] in shown for n in range(len(KEY) - 4))
    assert KEY[-4:] not in shown


@pytest.mark.parametrize(
    ("status", "body", "known"),
    [
        (200, {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 9}]}, True),
        (200, [{"id": "m", "owned_by": "vllm", "max_model_len": 9}], True),
        (200, {"data": []}, False),
        (200, {"data": None}, False),
        (200, {"data": [{"id": None}, "m", {"name": "m"}]}, False),
        (200, {"models": [{"name": "m"}]}, False),
        (200, {"data": [{"id": "n"}], "has_more": True}, False),  # and never another page
        (200, {"data": [{"id": "models/m", "owned_by": "vllm", "max_model_len": 9}]}, True),
        (200, {"data": [{"id": "m:latest", "owned_by": "vllm", "max_model_len": 9}]}, True),
        (403, {"error": {"message": "Missing scopes: api.model.read"}}, False),
        (404, {"detail": "Not Found"}, False),
        (405, {"detail": "Method Not Allowed"}, False),
        (501, {"error": "nope"}, False),
    ],
)
def test_a_server_needs_not_list_its_models(monkeypatch, status, body, known):
    answer = httpx.MockTransport(lambda _: httpx.Response(status, json=body))
    own = openai.OpenAI
    monkeypatch.setattr(
        openai, "OpenAI", lambda **more: own(**more, http_client=httpx.Client(transport=answer))
    )
    report = report_of(settings())
    assert (report.owner, report.context) == (("vllm", 9) if known else ("", None))


def test_a_model_that_a_server_does_not_list_is_refused(monkeypatch):
    answer = httpx.MockTransport(lambda _: httpx.Response(200, json={"data": [{"id": "n"}]}))
    own = openai.OpenAI
    monkeypatch.setattr(
        openai, "OpenAI", lambda **more: own(**more, http_client=httpx.Client(transport=answer))
    )
    with pytest.raises(CaiError, match=r"has no model `m`\. It has n"):
        report_of(settings())
    deployment = settings(base_url="https://mine.openai.azure.com/openai/v1")
    assert report_of(deployment).owner == ""  # Azure lists models, and is asked for deployments
    assert report_of(deployment.model_copy(update={"path": "n:nitro"})).owner == ""


def pages(*styles):
    """Return a server's three pages of models in a style, and the requests that it got."""
    lists = [[{"id": "a"}, {"id": "b"}], [{"id": "c"}], [{"id": "m", "owned_by": "vllm"}]]
    asked = []

    def answer(request):
        given = dict(request.url.params)
        asked.append((request.url.path, given))
        number = styles[0].index(given)
        return httpx.Response(200, json={"data": lists[number], **styles[1][number]})

    return httpx.MockTransport(answer), asked


PAGED = {
    "OpenAI": ([{}, {"after": "b"}, {"after": "c"}], [{"has_more": True}] * 2 + [{}]),
    "Anthropic": (
        [{}, {"after_id": "b"}, {"after_id": "c"}],
        [{"has_more": True, "first_id": one, "last_id": two} for one, two in ("ab", "cc")]
        + [{"has_more": False, "first_id": "m", "last_id": "m"}],
    ),
    "Gemini": (
        [{}, {"pageToken": "2"}, {"pageToken": "3"}],
        [{"nextPageToken": "2"}, {"nextPageToken": "3"}, {}],
    ),
    "Cohere": (
        [{}, {"page_token": "2"}, {"page_token": "3"}],
        [{"next_page_token": "2"}, {"next_page_token": "3"}, {"next_page_token": ""}],
    ),
    "addresses": (
        [{}, {"page": "2", "n": "2"}, {"page": "3"}],
        [{"next": "http://elsewhere/v1/models?page=2&n=2"}, {"next": "?page=3"}, {"next": None}],
    ),
}


@pytest.mark.parametrize("style", PAGED)
def test_a_list_of_models_is_read_page_by_page(monkeypatch, style):
    own = openai.OpenAI
    for path, owner in (("m", "vllm"), ("x", None)):
        transport, asked = pages(*PAGED[style])
        monkeypatch.setattr(
            openai,
            "OpenAI",
            lambda transport=transport, **more: own(
                **more, http_client=httpx.Client(transport=transport)
            ),
        )
        model = settings().model_copy(update={"path": path})
        if owner:
            assert report_of(model).owner == owner
        else:
            with pytest.raises(CaiError, match="has no model `x`"):
                report_of(model)
        assert [given for _, given in asked] == PAGED[style][0]
        assert {place for place, _ in asked} == {"/v1/models"}


def test_a_server_that_refuses_the_second_page_is_used_all_the_same(monkeypatch):
    def answer(request):
        more = {"data": [{"id": "n"}], "has_more": True}
        return httpx.Response(400 if request.url.params else 200, json=more)

    own = openai.OpenAI
    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(openai, "OpenAI", lambda **more: own(**more, http_client=client))
    assert report_of(settings()).owner == ""
