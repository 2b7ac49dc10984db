"""Runs an application: listens, says where, and lets running answers end when it is stopped."""

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from liveedit.errors import BadInput
from liveedit.serve.arriving import Arriving

__all__ = ["Server", "configured", "run"]


class Server(uvicorn.Server):
    """A server that calls ``started`` with its address once it listens."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self.announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.announce()


def configured(app: Any, grace: int, arrival: float) -> uvicorn.Config:
    """How to serve an application; see :class:`Limits` for both numbers of seconds."""
    protocol: Any = partial(Arriving, arrival)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_level="warning",
        timeout_graceful_shutdown=grace,
        server_header=False,
        access_log=False,
    )


def run(app: Any, host: str, port: int, grace: int, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; running answers get ``grace`` seconds to end.

    ``app`` is a :func:`liveedit.serve.app.application`. Raises :class:`BadInput` for an address at
    which it cannot listen.
    """
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    config = configured(app, grace, app.state.service.limits.arrival)
    with listener:
        Server(config, lambda: announce(address)).run([listener])


def _listen(host: str, port: int) -> socket.socket:
    """A socket at an address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise BadInput(
            f"cannot listen at {host}, port {port} ({error.strerror}): "
            "give another --host or --port"
        ) from None
