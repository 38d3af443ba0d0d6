"""The HTTP server around the application. The module that knows waitress."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import waitress
from waitress import parser, wasyncore
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.utilities import Error

from bt_jax.common.errors import UsageError

Application = Callable[..., Any]

_SPARE_THREADS = 16  # that tell others to come back, and whoever asks that the server is well
_CONNECTIONS = 512
_SILENCE = 30  # seconds after which a connection is closed that says nothing
_SLACK = 2**23  # bytes beyond the limit that are still read, so that the answer is too
_UNLIMITED = 2**40  # buffers never become files
_SECONDS_TO_DRAIN = 20.0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; connections wait until the server takes them.

    Raises:
      UsageError: an address that is no address of this machine, or that is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--host is {host!r}, which is no address ({error}): use 127.0.0.1 or this machine's name"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"cannot listen at {host} port {port} ({reason}): choose another --port, or --port=0 for any"
        ) from error
    return listener


class Server:
    """Serves an application until it is told to stop.

    Args:
      application: to serve.
      listener: from `bind`.
      request_bytes: of the body of a request.
      threads: requests that the application answers at the same time, before it refuses any.
      total_bytes: of the bodies of all requests together.
    """

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        *,
        request_bytes: int,
        threads: int = 32,
        total_bytes: int = 2**29,
    ):
        for name in ("waitress", "waitress.queue"):
            logging.getLogger(name).setLevel(logging.ERROR)
        server = waitress.create_server(
            application,
            sockets=[listener],
            threads=threads + _SPARE_THREADS,
            connection_limit=_CONNECTIONS,
            channel_timeout=_SILENCE,
            cleanup_interval=5,
            recv_bytes=2**16,
            max_request_header_size=2**14,
            max_request_body_size=request_bytes + _SLACK,
            inbuf_overflow=_UNLIMITED,
            outbuf_overflow=_UNLIMITED,
            outbuf_high_watermark=2**26,
            ident=None,
            log_socket_errors=False,
            asyncore_use_poll=True,
            asyncore_loop_timeout=1,
        )
        assert isinstance(server, TcpWSGIServer)
        self._server, self.bodies = server, BodyMemory(max(total_bytes, request_bytes + _SLACK))

        class Parser(_Parser):
            pass

        class Channel(HTTPChannel):
            parser_class = Parser

        Parser.bodies = self.bodies
        server.channel_class = Channel

    def run(self, stopped: Callable[[], bool]) -> None:
        """Serves until `stopped`, asked twice a second; then what has arrived is answered, and nothing else taken."""
        while not stopped():
            self._poll(0.5)
        # Nobody is listening any more: the next start can have the port, and a load balancer sees it.
        self._server.del_channel()
        self._server.socket.close()
        end = time.monotonic() + _SECONDS_TO_DRAIN
        while self._has_open_requests() and time.monotonic() < end:
            self._poll(0.05)

    def close(self) -> None:
        """Ends threads and connections."""
        self._server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._server._map, ignore_all=True)

    def _poll(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._server._map, count=1)

    def _has_open_requests(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.request or channel.total_outbufs_len for channel in channels)


class BodyMemory:
    """How many bytes of requests are in memory."""

    def __init__(self, limit: int):
        self._limit, self.held, self._turn = limit, 0, threading.Lock()

    def take(self, count: int) -> bool:
        """Whether there is room for so many more; they are counted then."""
        with self._turn:
            if self.held + count > self._limit:
                return False
            self.held += count
            return True

    def give(self, count: int) -> None:
        """So many are gone."""
        with self._turn:
            self.held -= count


class _Parser(parser.HTTPRequestParser):
    """Counts what it holds, and refuses in the form of the interface."""

    bodies: BodyMemory
    held = 0
    error: Any

    def received(self, data: bytes) -> int:
        """As in the base."""
        consumed: int = super().received(data)
        grown = self.body_bytes_received - self.held
        if grown > 0 and self.bodies.take(grown):
            self.held += grown
        elif grown > 0:
            self._refuse(503, "Service Unavailable", "busy", "the server has too much to do: try again soon")
        if isinstance(self.error, Error) and self.error.code == 413:
            self._refuse(413, "Content Too Large", "request_too_large", "the request is larger than the server takes")
        return consumed

    def _refuse(self, *reason: Any) -> None:
        self.error, self.completed = _RefusedError(*reason), True
        self.expect_continue = False  # or the client would be told to go on

    def __del__(self) -> None:
        if self.held:
            self.bodies.give(self.held)
            self.held = 0


class _RefusedError(Error):  # type: ignore[misc]
    """An answer before the application sees the request."""

    def __init__(self, status: int, reason: str, code: str, text: str):
        super().__init__(text)
        self.code, self.reason, self._name = status, reason, code

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        """Status, headers, body."""
        headers = [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"), ("Retry-After", "2")]
        content = {"error": self.body, "code": self._name, "values": {}}
        return f"{self.code} {self.reason}", headers, json.dumps(content).encode()
