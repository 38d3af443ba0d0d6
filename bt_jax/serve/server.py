"""The HTTP server around the application. The only module that imports waitress."""

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

_SPARE_THREADS = 16  # answer 503 and health checks while all other threads are in use
_CONNECTIONS = 512
_SILENCE = 30  # seconds without data after which a connection is closed
_SLACK = 2**23  # bytes beyond the limit that are still read, so that the client reads the response
_UNLIMITED = 2**40  # bytes; buffers are never written to disk
_SECONDS_TO_DRAIN = 20.0


def bind(host: str, port: int) -> socket.socket:
    """Binds a listening socket; connections wait until the server accepts them.

    Raises:
      UsageError: the address is not one of this machine, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"--host={host!r} is not an address ({error}): use 127.0.0.1 or the name of this machine"
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
            f"cannot bind to {host} port {port} ({reason}): choose another --port, or --port=0 for any free port"
        ) from error
    return listener


class Server:
    """Serves an application until it is told to stop.

    Args:
      application: the WSGI application.
      listener: from `bind`.
      request_bytes: size limit of the body of a request.
      threads: number of requests that the application processes concurrently.
      total_bytes: size limit of the bodies of all requests together.
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
        """Serves until `stopped`, called twice a second, returns True; then answers the requests that have arrived."""
        while not stopped():
            self._poll(0.5)
        # Frees the port for the next start, and shows a load balancer that this server is gone.
        self._server.del_channel()
        self._server.socket.close()
        end = time.monotonic() + _SECONDS_TO_DRAIN
        while self._has_open_requests() and time.monotonic() < end:
            self._poll(0.05)

    def close(self) -> None:
        """Stops the threads and closes the connections."""
        self._server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._server._map, ignore_all=True)

    def _poll(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._server._map, count=1)

    def _has_open_requests(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.request or channel.total_outbufs_len for channel in channels)


class BodyMemory:
    """A budget for the bytes of request bodies in memory. Thread-safe."""

    def __init__(self, limit: int):
        self._limit, self.held, self._turn = limit, 0, threading.Lock()

    def take(self, count: int) -> bool:
        """Reserves bytes and returns True, or returns False if they exceed the limit."""
        with self._turn:
            if self.held + count > self._limit:
                return False
            self.held += count
            return True

    def give(self, count: int) -> None:
        """Releases bytes."""
        with self._turn:
            self.held -= count


class _Parser(parser.HTTPRequestParser):
    """Counts the bytes it holds, and refuses requests in the format of the API."""

    bodies: BodyMemory
    held = 0
    error: Any

    def received(self, data: bytes) -> int:
        """Parses data and returns the number of bytes consumed, as the base class does."""
        consumed: int = super().received(data)
        grown = self.body_bytes_received - self.held
        if grown > 0 and self.bodies.take(grown):
            self.held += grown
        elif grown > 0:
            self._refuse(503, "Service Unavailable", "busy", "the server is busy: try again soon")
        if isinstance(self.error, Error) and self.error.code == 413:
            self._refuse(413, "Content Too Large", "request_too_large", "the request exceeds the server's size limit")
        return consumed

    def _refuse(self, *reason: Any) -> None:
        self.error, self.completed = _RefusedError(*reason), True
        self.expect_continue = False  # else the client would be told to continue

    def __del__(self) -> None:
        if self.held:
            self.bodies.give(self.held)
            self.held = 0


class _RefusedError(Error):  # type: ignore[misc]
    """A response sent before the application sees the request."""

    def __init__(self, status: int, reason: str, code: str, text: str):
        super().__init__(text)
        self.code, self.reason, self._name = status, reason, code

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        """Returns status, headers and body."""
        headers = [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"), ("Retry-After", "2")]
        content = {"error": self.body, "code": self._name, "values": {}}
        return f"{self.code} {self.reason}", headers, json.dumps(content).encode()
