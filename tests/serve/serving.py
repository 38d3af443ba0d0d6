"""A server in a thread of the tests."""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from bt_jax.serve.server import Application, Server, bind
from tests import multipart


class Running:
    """Serves until it is closed, at a port of its own."""

    def __init__(self, application: Application, **options: Any):
        self.listener = bind("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.server = Server(application, self.listener, **{"request_bytes": 2**20, **options})
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.server.run(self.stop.is_set)
        self.server.close()

    def connect(self) -> http.client.HTTPConnection:
        """A connection, to be closed."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def post(
        self, files: Iterable[tuple[str, bytes]], fields: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer of `/api/predict`."""
        with contextlib.closing(self.connect()) as connection:
            headers = {"Content-Type": multipart.CONTENT_TYPE}
            connection.request("POST", "/api/predict", multipart.encoded(files, fields), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def close(self) -> None:
        """Ends it, and waits for that."""
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()
