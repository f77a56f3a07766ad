"""Serve the page on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from cai.errors import CaiError
from cai.view.app import Desk, make_app

ADDRESS = "127.0.0.1"


class Server(uvicorn.Server):
    """A server whose socket already listens, so that the link can be opened before it runs."""

    def __init__(
        self, config: uvicorn.Config, desk: Desk, listener: socket.socket, link: str
    ) -> None:
        super().__init__(config)
        self._desk = desk
        self._listener = listener
        self.link = link

    def serve_here(self) -> None:
        """Serve until Ctrl-C, or until `should_exit` is set."""
        self.run(sockets=[self._listener])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the running trials, too."""
        self._desk.end()
        await super().shutdown(sockets)


def listen(desk: Desk, port: int) -> Server:
    """Listen on this machine only, with a random link; port 0 is any free port.

    Raises:
        CaiError: The port is not free.
    """
    listener = _listener(port)
    host = f"{ADDRESS}:{listener.getsockname()[1]}"
    token = secrets.token_urlsafe(24)
    app = make_app(desk, token=token, hosts={host, host.replace(ADDRESS, "localhost")})
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # It would print the token.
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    return Server(config, desk, listener, f"http://{host}/{token}/")


def serve(desk: Desk, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve a page until Ctrl-C; `ready` is called with the link.

    Raises:
        CaiError: The port is not free.
    """
    server = listen(desk, port)
    ready(server.link)
    with suppress(KeyboardInterrupt):
        server.serve_here()


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
    except OSError as problem:
        listener.close()
        raise CaiError(
            f"Port {port} cannot be used ({problem.strerror}): give another `--port`, or leave it "
            "out for any free port."
        ) from None
    listener.listen()
    return listener
