"""A server that speaks OpenAI's API as a test tells it to, and misbehaves when told."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cai.settings import ModelSettings, ServerSettings

SOON = {"retry-after-ms": "1"}
"""Tells the client not to wait for long."""


RESET = (0, None, {})
"""An answer that is none: the connection is closed."""


class ScriptedServer:
    """Answers requests in turn from `script`, then with `answer`.

    An answer is `(status, body, headers)`: a dictionary becomes JSON, text and bytes are sent as
    they are, None drops the connection halfway, and `RESET` drops it before any answer; or a
    function of the request's body that returns such a thing.
    """

    def __init__(self, answer=None, models=("judge",), owner="someone"):
        self.answer = answer or chat("hello")
        self.script = []
        self.asked = []
        self.keys = []
        self.models = (
            200,
            {
                "object": "list",
                "data": [{"id": m, "object": "model", "owned_by": owner} for m in models],
            },
            {},
        )
        self.url = ""

    @contextmanager
    def running(self):
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.say(script.models)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                script.asked.append(body)
                answer = script.script.pop(0) if script.script else script.answer
                self.say(answer(body) if callable(answer) else answer)

            def say(self, answer):
                script.keys.append(self.headers["authorization"])
                status, body, headers = answer
                self.close_connection = body is None
                if answer is RESET:
                    return
                text = "" if body is None else body if isinstance(body, str | bytes) else None
                text = json.dumps(body) if text is None else text
                content = text if isinstance(text, bytes) else text.encode()
                self.send_response(status)
                length = len(content) + (50 if body is None else 0)
                for name, value in {
                    "content-type": "application/json",
                    "content-length": str(length),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                """Clients that gave up are part of the tests."""

        server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def settings(self, path="judge", **server):
        """Return the settings of a model behind this server."""
        template = server.pop("format", "chat")
        options = server.pop("options", {})
        return ModelSettings(
            path=path,
            engine="openai",
            format=template,
            options=options,
            server=ServerSettings(**{"base_url": self.url, "retries": 2, **server}),
        )


def chat(*texts, finish="stop", listed=None, usage=(10, 5, 4)):
    """Return an answer of the chat endpoint.

    Args:
        texts: One choice each.
        finish: Why they ended.
        listed: For each place the chosen token and the log-probabilities of the likeliest.
        usage: Tokens read, those of them that were cached, tokens sampled.
    """
    logprobs = None
    if listed is not None:
        logprobs = {
            "content": [
                {
                    "token": token,
                    "logprob": top.get(token, -9.0),
                    "bytes": None,
                    "top_logprobs": [
                        {"token": t, "logprob": value, "bytes": None} for t, value in top.items()
                    ],
                }
                for token, top in listed
            ]
        }
    read, cached, sampled = usage
    return (
        200,
        {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "judge",
            "choices": [
                {
                    "index": number,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": finish,
                    "logprobs": logprobs,
                }
                for number, text in enumerate(texts)
            ],
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": sampled,
                "total_tokens": read + sampled,
                "prompt_tokens_details": {"cached_tokens": cached},
            },
        },
        {},
    )


def error(status, message="no", code=None, **headers):
    """Return an error as OpenAI's API words it."""
    body = {"error": {"message": message, "type": "x", "param": None, "code": code}}
    return status, body, {**SOON, **{k.replace("_", "-"): v for k, v in headers.items()}}
