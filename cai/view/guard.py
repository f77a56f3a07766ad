"""Access control: only users with the link, on this machine, and no other web page."""

from __future__ import annotations

import secrets
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 1_000_000
"""The longest request body that is read."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Refuses requests with a foreign host, a foreign origin or no token, and bodies without JSON.

    The token is the first part of the path. The host is checked because a foreign page can rebind
    its name to 127.0.0.1 and is then the same origin; the token alone also prevents this.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str]) -> None:
        """Wrap an application.

        Args:
            app: The application; its paths start after the token.
            token: The secret.
            hosts: Allowed Host headers, with the port.
        """
        self._app = app
        self._token = token.encode()
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            status, reason = refusal
            await PlainTextResponse(reason + "\n", status)(scope, receive, guarded)
            return
        root = "/" + self._token.decode()
        scope = {**scope, "root_path": root}
        await self._app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if headers.get("host", "") not in self._hosts:
            return 421, "This server only answers requests to 127.0.0.1."
        given, slash, _ = scope["path"].encode("utf-8", "surrogateescape")[1:].partition(b"/")
        if not secrets.compare_digest(given, self._token) or not slash:
            return 403, "Open the link that `cai view` printed: it has the token."
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in self._hosts}:
            return 403, "Requests from other pages are refused."
        if scope["method"] == "POST" and not _is_json(headers):
            return 415, "Send JSON."
        return None


def _is_json(headers: Headers) -> bool:
    """Return whether the content type is JSON, which the form of a foreign page cannot have."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
