"""What all answers have in common, on an application of two pages."""

import logging

import flask
import pytest
from flask.testing import FlaskClient
from werkzeug import exceptions

from bt_jax.common.messages import Message
from bt_jax.serve import middleware
from bt_jax.serve.api import RefusedError
from bt_jax.serve.batching import BusyError
from bt_jax.serve.counters import Counters
from bt_jax.serve.settings import Settings

ERRORS = {
    "refused": RefusedError(418, Message("empty", "the file is empty")),
    "busy": BusyError(9),
    "http": exceptions.UnsupportedMediaType(),
    "gateway": exceptions.BadGateway(),
    "unknown": KeyError("a secret"),
}


@pytest.fixture(scope="module")
def counters() -> Counters:
    return Counters({})


@pytest.fixture(scope="module")
def client(counters) -> FlaskClient:
    app = flask.Flask(__name__, static_folder=None)
    middleware.add_request_checks(app, Settings(hosts=frozenset({"localhost", "::1"})), counters)
    middleware.add_error_handlers(app, counters)
    app.add_url_rule("/found", "found", lambda: middleware.CachedContent(b"bytes", "text/plain").respond())
    app.add_url_rule("/gone", "gone", lambda: middleware.CachedContent(None, "text/plain").respond())

    @app.route("/error/<name>")
    def error(name: str) -> str:
        raise ERRORS[name]

    return app.test_client()


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("refused", 418, "empty"),
        ("busy", 503, "busy"),
        ("http", 415, "bad_request"),
        ("gateway", 502, "internal"),
        ("unknown", 500, "internal"),
    ],
)
def test_every_error_is_a_sentence_with_its_code(client, caplog, name, status, code):
    with caplog.at_level(logging.DEBUG):
        answer = client.get(f"/error/{name}?lang=es")
    assert answer.status_code == status and answer.get_json()["code"] == code
    assert answer.get_json()["error"] and "secret" not in answer.get_data(as_text=True) + caplog.text
    assert ("KeyError at " in caplog.text) == (name == "unknown")
    assert (answer.headers.get("Retry-After") == "9") == (name == "busy")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_bytes_that_the_browser_has_are_not_sent_again(client):
    first = client.get("/found")
    assert (first.data, first.headers["Cache-Control"]) == (b"bytes", "no-cache")
    again = client.get("/found", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get("/gone").status_code == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LocalHost:81", 200), ("[::1]:5000", 200), ("localhost.evil.example", 421), ("[::1", 421),
     ("evil.example", 421), ("", 421), ("a b", 421)],
)  # fmt: skip
def test_only_its_own_names(client, host, status):
    assert client.get("/found", headers={"Host": host}).status_code == status


def test_requests_are_counted_by_route_and_status(client, counters):
    client.get("/nowhere/1")
    client.get("/nowhere/2")
    client.get("/error/http")
    text = counters.format().decode()
    assert 'bt_jax_requests_total{route="other",status="404"} 2' in text
    assert 'bt_jax_requests_total{route="/error/<name>",status="415"}' in text
    assert "nowhere" not in text


@pytest.mark.parametrize(
    ("path", "accepted", "expected"),
    [("/?lang=es", "en", "es"), ("/?lang=xx", "es-AR", "es"), ("/", "es;q=0.3, en;q=0.9", "en"), ("/", "", "en"),
     ("/", "fr, de", "en")],
)  # fmt: skip
def test_the_language_that_is_spoken(client, path, accepted, expected):
    with client.application.test_request_context(path, headers={"Accept-Language": accepted}):
        assert middleware.choose_language() == expected
