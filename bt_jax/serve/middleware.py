"""Common parts of all responses: security headers, static files, and errors in the format of the API."""

import hashlib
import json
import logging
import mimetypes
import pathlib
import time
import urllib.parse

import flask
from werkzeug import exceptions

from bt_jax.common.messages import Message
from bt_jax.serve import i18n
from bt_jax.serve.api import RefusedError
from bt_jax.serve.batching import BusyError
from bt_jax.serve.counters import Counters
from bt_jax.serve.settings import Settings

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_PROBLEMS = {
    400: Message("bad_request", "the request is malformed"),
    403: Message("other_site", "requests from pages of other sites are refused"),
    404: Message("not_found", "there is no such page"),
    405: Message("method", "this address does not support the HTTP method"),
    413: Message("request_too_large", "the request exceeds the server's size limit"),
    421: Message("other_host", "the server does not accept requests for this host name"),
    500: Message("internal", "an internal error occurred: nothing was predicted"),
    503: Message("busy", "the server is busy: try again soon"),
}
_log = logging.getLogger(__name__)


def choose_language() -> str:
    """Chooses the language: that of the address if given, else the one that the browser prefers."""
    asked = flask.request.args.get("lang")
    if asked in i18n.LANGUAGES:
        return str(asked)
    return flask.request.accept_languages.best_match(i18n.LANGUAGES) or i18n.LANGUAGES[0]


class CachedContent:
    """Bytes to serve with an ETag; None is answered with 404."""

    def __init__(self, content: bytes | None, kind: str):
        self._content, self._kind = content, kind
        self._tag = hashlib.sha256(content or b"").hexdigest()[:32]

    def respond(self) -> flask.Response:
        """Makes the response, which is empty if the client's copy is current."""
        if self._content is None:
            flask.abort(404)
        answer = flask.Response(self._content, content_type=self._kind)
        answer.set_etag(self._tag)
        answer.headers["Cache-Control"] = "no-cache"  # the client revalidates with the ETag
        answer.make_conditional(flask.request)
        return answer


class PackageFile(CachedContent):
    """A file of the package, read once at the start."""

    @classmethod
    def read(cls, path: pathlib.Path) -> "PackageFile":
        """Reads the file."""
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        text = kind.startswith("text/") or kind == "application/json"
        return cls(path.read_bytes(), f"{kind}; charset=utf-8" if text else kind)


def add_request_checks(app: flask.Flask, settings: Settings, counters: Counters) -> None:
    """Adds what runs before and after every request: checks of its origin, headers and counters."""

    @app.before_request
    def begin() -> None:
        flask.g.begin = time.monotonic()
        if settings.hosts is not None and _get_host() not in settings.hosts:
            raise RefusedError(421, _PROBLEMS[421])
        # Browsers send this header; programs do not.
        if flask.request.method == "POST" and flask.request.headers.get("Sec-Fetch-Site") in (
            "cross-site",
            "same-site",
        ):
            raise RefusedError(403, _PROBLEMS[403])

    @app.after_request
    def end(response: flask.Response) -> flask.Response:
        response.headers.extend(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        rule = flask.request.url_rule
        seconds = time.monotonic() - flask.g.get("begin", time.monotonic())
        counters.count_request(route=rule.rule if rule else "other", status=response.status_code, seconds=seconds)
        return response


def _get_host() -> str | None:
    """Returns the host name that the request is addressed to, without the port."""
    try:
        return urllib.parse.urlsplit(f"//{flask.request.host}").hostname
    except ValueError:
        return None


def add_error_handlers(app: flask.Flask, counters: Counters) -> None:
    """Adds handlers that turn errors into a message with its code."""

    def respond_with_error(status: int, reason: str, **headers: str) -> flask.Response:
        content = {"error": i18n.translate(reason, choose_language()), **i18n.get_code_and_values(reason)}
        answer = flask.Response(json.dumps(content, ensure_ascii=False), status, content_type="application/json")
        answer.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return answer

    @app.errorhandler(RefusedError)
    def handle_refused(error: RefusedError) -> flask.Response:
        return respond_with_error(error.status, error.reason)

    @app.errorhandler(BusyError)
    def handle_busy(error: BusyError) -> flask.Response:
        counters.refused.inc()
        return respond_with_error(503, _PROBLEMS[503], Retry_After=str(error.retry_after))

    @app.errorhandler(exceptions.HTTPException)
    def handle_http_error(error: exceptions.HTTPException) -> flask.Response:
        status = error.code or 500
        allowed = (
            {"Allow": ", ".join(sorted(error.valid_methods or ()))}
            if isinstance(error, exceptions.MethodNotAllowed)
            else {}
        )
        return respond_with_error(status, _PROBLEMS.get(status, _PROBLEMS[400 if status < 500 else 500]), **allowed)

    @app.errorhandler(Exception)
    def handle_unexpected(error: Exception) -> flask.Response:
        # The message and the traceback's values are not logged because they may reveal what was sent.
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "unknown"
        _log.error("internal error: %s at %s", type(error).__name__, where)
        return respond_with_error(500, _PROBLEMS[500])
