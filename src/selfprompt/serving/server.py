"""Runs the application on a socket until a signal comes."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from selfprompt.serving.limits import Limits

STOP_SECONDS = 30
"""Seconds in which requests in progress are answered after a signal."""
BACKLOG = 2048


class _Connection(H11Protocol):
    """A connection that ends unless each request begins, and its headers arrive, in time.

    uvicorn's own limit covers the time after an answer only: a client that never sends a request, or its headers byte
    by byte, or that never reads its answer, would hold its connection for ever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        self.handle_events()  # stops the timer when a request is complete

    def on_response_complete(self) -> None:
        closing = self.transport.is_closing()
        super().on_response_complete()  # starts the timer, unless the connection closes once the answer is read
        if closing:
            self._start_timer()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()

    def _start_timer(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell()


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: Name or address of this machine.
        port: Port; 0 for any free one.

    Raises:
        OSError: If there is no such address here, or the port is in use.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def address(listening: socket.socket) -> str:
    """Return the URL of a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_local(listening: socket.socket) -> bool:
    """Return whether only this machine can connect."""
    return ip_address(listening.getsockname()[0]).is_loopback


def make_server(app: ASGIApp, limits: Limits, started: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Return a server that is not running yet.

    Args:
        app: The application.
        limits: Time-outs of connections.
        started: Called when connections are accepted.
    """
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return _Server(config, started)


def run_server(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve at a listening socket until SIGINT or SIGTERM; requests in progress are answered first."""
    with _signals_end_only_the_server():
        server.run([listening])


@contextmanager
def _signals_end_only_the_server() -> Iterator[None]:
    """Ignore the signals that uvicorn raises again after it has stopped because of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
