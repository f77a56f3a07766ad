"""Serve the page on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import uvicorn

from cai.errors import CaiError
from cai.view.app import Desk, make_app

ADDRESS = "127.0.0.1"


@dataclass
class Served:
    """A server whose socket listens already: whoever follows the link waits until it runs.

    Attributes:
        link: Where the page is; it has the token in it.
        server: Set its `should_exit` to end it.
    """

    link: str
    server: uvicorn.Server
    listener: socket.socket

    def run(self) -> None:
        """Serve until Ctrl-C, or until told to end."""
        self.server.run(sockets=[self.listener])


class _Server(uvicorn.Server):
    """Ends the trials under way when it is told to end."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._desk.end()
        await super().shutdown(sockets)


def listen(desk: Desk, port: int) -> Served:
    """Listen for this machine alone, under a link that cannot be guessed.

    Args:
        desk: What to serve.
        port: Where to listen; 0 for any free port.

    Raises:
        CaiError: The port is taken.
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
    return Served(f"http://{host}/{token}/", _Server(config, desk), listener)


def serve(desk: Desk, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve a desk until Ctrl-C; `ready` is called with the link.

    Raises:
        CaiError: The port is taken.
    """
    served = listen(desk, port)
    ready(served.link)
    with suppress(KeyboardInterrupt):  # The way to end it.
        served.run()


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
    except OSError as problem:
        listener.close()
        raise CaiError(
            f"Port {port} cannot be used ({problem.strerror}): name another with `--port`, or "
            "leave it out for any free one."
        ) from None
    listener.listen()
    return listener
