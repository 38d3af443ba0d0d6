"""The real server, in this process: connections, limits, what it writes, how it ends."""

import concurrent.futures
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.serve import app
from bt_jax.serve.model_page import ModelPage
from bt_jax.serve.server import bind
from bt_jax.serve.settings import Settings
from tests import hostile_inputs, multipart
from tests.serve.serving import Running

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@pytest.fixture
def running(application) -> Iterator[Running]:
    made = Running(application)
    yield made
    made.close()


def test_a_prediction_over_the_wire(running):
    status, answer = running.post([("a.png", hostile_inputs.image())])
    assert status == 200 and answer["records"][0]["path"] == "a.png"


def test_nothing_is_written_even_of_large_files(application):
    """Every file that the process opens to write is noted: neither waitress nor werkzeug may spool a body."""
    large, opened, watching = hostile_inputs.image() + bytes(900_000), list[object](), threading.Event()

    def note(event: str, arguments: tuple) -> None:
        if watching.is_set() and event == "open" and (arguments[2] or 0) & WRITING:
            opened.append(arguments[0])

    sys.addaudithook(note)  # cannot be taken away again; it sleeps afterwards
    running = Running(application)
    try:
        watching.set()
        status, answer = running.post([("a.png", large)])
        with contextlib.closing(running.connect()) as connection:
            body = multipart.encoded([("a.png", large)])
            connection.request("POST", "/api/predict", iter([body[:70_000], body[70_000:]]),
                               {"Content-Type": multipart.CONTENT_TYPE}, encode_chunked=True)  # fmt: skip
            chunked = connection.getresponse()
            assert chunked.status == 200
            chunked.read()
        with open(os.devnull, "wb"):  # noqa: PTH123 - that the watch works
            pass
        watching.clear()
    finally:
        watching.clear()
        running.close()
    assert status == 200 and "error" not in answer["records"][0]
    assert opened == [os.devnull]


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_request_that_is_too_large_is_told_so(running, expect):
    status, answer = running.post([("a.png", bytes(2**20))])
    assert status == 413 and answer["code"] == "request_too_large"
    # Far too large: it is not even read. The answer is there before a byte of the body.
    with socket.create_connection(("127.0.0.1", running.port), 20) as connection:
        head = b"POST /api/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n" + expect
        connection.sendall(head + b"\r\n")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ") and json.loads(body)["code"] == "request_too_large"


def test_all_requests_together_have_a_limit(application):
    running = Running(application, total_bytes=0)  # that of one request
    held = []
    try:
        for _ in range(6):
            connection = socket.create_connection(("127.0.0.1", running.port), 20)
            held.append(connection)
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + bytes(1_500_000))
        end = time.monotonic() + 20
        while running.server.bodies.held < 9_000_000:
            assert time.monotonic() < end
            time.sleep(0.01)
        answers = [running.post([("a.png", hostile_inputs.image() + bytes(900_000))])[0]]
        for connection in held:
            connection.close()
        end = time.monotonic() + 20
        while answers[-1] != 200 and time.monotonic() < end:
            with contextlib.suppress(OSError):
                answers.append(running.post([("a.png", hostile_inputs.image() + bytes(900_000))])[0])
        assert answers[0] == 503 and answers[-1] == 200
    finally:
        for connection in held:
            connection.close()
        running.close()


def test_too_many_at_once_are_refused_and_the_others_answered(engine, workdir, monkeypatch):
    """Even while every request of those that are let in is waiting, the server says that it is well."""
    let, answer = threading.Event(), type(engine).predict

    def slow(self, slices, **options):
        assert let.wait(20)
        return answer(self, slices, **options)

    monkeypatch.setattr(type(engine), "predict", slow)
    application = app.create(engine, Settings(requests=3), ModelPage(engine.predictor, [str(workdir)]))
    running, files = Running(application, threads=3), [("a.png", hostile_inputs.image())]
    try:
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(running.post, files) for _ in range(12)]
            end = time.monotonic() + 20
            while sum(one.done() for one in answers) < 9:
                assert time.monotonic() < end
                time.sleep(0.01)
            with contextlib.closing(running.connect()) as connection:
                connection.request("GET", "/healthz")
                assert connection.getresponse().status == 200
            let.set()
            statuses = sorted(one.result()[0] for one in answers)
        assert statuses == [200] * 3 + [503] * 9
        assert running.post(files)[0] == 200
    finally:
        let.set()
        running.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"rubbish\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_http(running, request_bytes):
    with socket.create_connection(("127.0.0.1", running.port), 20) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert not answer.startswith(b"HTTP/1.1 500") and b"waitress" not in answer.lower() and b"Traceback" not in answer
    assert running.post([("a.png", hostile_inputs.image())])[0] == 200


def test_a_stop_answers_what_has_arrived_and_takes_nothing_more():
    begun, let = threading.Event(), threading.Event()

    def application(environ, start_response):
        begun.set()
        assert let.wait(20)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
        return [b"done"]

    running = Running(application)
    with contextlib.closing(running.connect()) as connection:
        connection.request("GET", "/")
        assert begun.wait(20)
        running.stop.set()
        end = time.monotonic() + 20
        refused = False
        while not refused and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", running.port), 1).close()
                time.sleep(0.02)
            except OSError:
                refused = True
        assert refused
        let.set()
        assert connection.getresponse().read() == b"done"
    running.close()


def test_the_port_is_free_again_and_one_that_is_taken_is_said():
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot bind to 127\.0\.0\.1 port {port} \(.*in use\): choose another"):
            bind("127.0.0.1", port)
    bind("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "a" * 300])
def test_addresses_that_are_none(host):
    with pytest.raises(UsageError, match="--host"):
        bind(host, 0)
