"""The pages and the interface, as an application for any WSGI server. It keeps nothing and opens no file by request."""

import functools
import hashlib
import io
import json
import logging
import mimetypes
import pathlib
import time
import urllib.parse
from typing import IO, Any

import flask
from werkzeug import exceptions

from bt_jax import gradcam
from bt_jax.data import phantom
from bt_jax.data.decode import encode_png
from bt_jax.sentences import Sentence
from bt_jax.serve import language
from bt_jax.serve.api import Api, RefusedError, Upload, Wishes
from bt_jax.serve.batching import BusyError
from bt_jax.serve.counters import Counters
from bt_jax.serve.engine import Engine
from bt_jax.serve.model_page import ModelPage
from bt_jax.serve.settings import Settings

_FOLDER = pathlib.Path(__file__).parent
_FIELDS = ("lang", "slice", "picture", "explain", "class")
_LONGEST_NAME = 200  # characters of a file's name that are said again
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
    400: Sentence("bad_request", "the request is not understood"),
    403: Sentence("other_site", "requests from pages of other sites are refused"),
    404: Sentence("not_found", "there is no such page"),
    405: Sentence("method", "this address is for another method of HTTP"),
    413: Sentence("request_too_large", "the request is larger than the server takes"),
    421: Sentence("other_host", "the server does not answer to this name"),
    500: Sentence("internal", "an error inside the server: nothing was predicted"),
    503: Sentence("busy", "the server has too much to do: try again soon"),
}
_log = logging.getLogger(__name__)


class _Request(flask.Request):
    """A request whose files stay in memory; werkzeug would write those of more than half a megabyte to disk."""

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        return io.BytesIO()


def create(engine: Engine, settings: Settings, model_page: ModelPage) -> flask.Flask:
    """The application.

    Args:
      engine: that predicts.
      settings: the limits.
      model_page: what is to be said of the model.
    """
    app = flask.Flask(__name__, static_folder=None)
    app.request_class = _Request
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config.update(
        MAX_CONTENT_LENGTH=settings.request_bytes,
        MAX_FORM_PARTS=settings.files + len(_FIELDS),
        MAX_FORM_MEMORY_SIZE=2**16,
    )
    counters = Counters()
    app.extensions["bt_jax"] = counters
    api = Api(engine, settings)
    _guard(app, settings, counters)
    _add_errors(app, counters)
    _add_pages(app, engine, settings, model_page)

    @app.post("/api/predict")
    def predict() -> flask.Response:
        uploads, wishes = _uploads(settings), _wishes(engine)
        records = api.records(uploads, wishes)
        for record in records:
            counters.count("errors_total" if "error" in record else "slices_total")
            if record.get("heat_map"):
                counters.count("heat_maps_total")
        return flask.jsonify(records=records)

    @app.get("/healthz")
    def healthz() -> flask.Response:
        return flask.jsonify(status="ok", warm=engine.warm)

    @app.get("/metrics")
    def metrics() -> flask.Response:
        gauges = {
            "queue_slices": len(engine.predictions),
            "queue_capacity": engine.predictions.capacity,
            "steps": engine.predictions.steps,
            "slices_in_steps": engine.predictions.pieces,
            "resident_bytes": _resident_bytes(),
        }
        return flask.Response(counters.text(gauges), content_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _uploads(settings: Settings) -> list[Upload]:
    found = flask.request.files.getlist("file")
    if not found:
        raise RefusedError(400, Sentence("no_file", "send files as the field `file` of a form (multipart/form-data)"))
    if len(found) > settings.files:
        text = "{count} files are more than the limit of {limit} in a request"
        raise RefusedError(400, Sentence("too_many_files", text, count=len(found), limit=settings.files))
    return [Upload((file.filename or "image")[:_LONGEST_NAME], file.read()) for file in found]


def _wishes(engine: Engine) -> Wishes:
    """The fields of the form besides the files."""
    form = flask.request.form
    for field in form:
        if field not in _FIELDS:
            raise RefusedError(
                400,
                Sentence("unknown_field", "there is no such field: use {known}", known=", ".join(("file", *_FIELDS))),
            )
    explain = _choice("explain", gradcam.METHODS)
    if explain and not engine.explains:
        raise RefusedError(
            400, Sentence("no_heat_maps", "the model is a StableHLO file, for which there are no heat maps")
        )
    number = form.get("slice")
    if number is not None and not (number.isascii() and number.isdecimal() and 1 <= int(number[:9]) < 10**8):
        raise RefusedError(400, Sentence("bad_slice", "`slice` is a whole number from 1"))
    return Wishes(
        language=_choice("lang", language.LANGUAGES) or _language(),
        number=int(number) if number else None,
        picture=_choice("picture", ("0", "1")) == "1",
        explain=explain,
        label=_choice("class", engine.predictor.class_names),
    )


def _choice(field: str, allowed: tuple[str, ...]) -> str | None:
    value = flask.request.form.get(field)
    if value and value not in allowed:
        text = "`{field}` is one of {allowed}"
        raise RefusedError(400, Sentence("bad_choice", text, field=field, allowed=", ".join(allowed)))
    return value or None


def _language() -> str:
    """As the address says, else as the browser prefers."""
    asked = flask.request.args.get("lang")
    if asked in language.LANGUAGES:
        return str(asked)
    return flask.request.accept_languages.best_match(language.LANGUAGES) or language.LANGUAGES[0]


def _add_pages(app: flask.Flask, engine: Engine, settings: Settings, model_page: ModelPage) -> None:
    static = {path.name: _File.read(path) for path in sorted((_FOLDER / "static").iterdir()) if path.is_file()}
    openapi = _File.read(_FOLDER / "openapi.json")
    tables = {name: language.table(name) for name in language.LANGUAGES}
    facts = {
        "classes": engine.predictor.class_names,
        "explains": engine.explains,
        "methods": gradcam.METHODS,
        "requestBytes": settings.request_bytes,
    }

    def page(template: str, spoken: str, **values: Any) -> str:
        return flask.render_template(template, lang=spoken, texts=language.table(spoken)["page"], **values)

    @app.get("/")
    def index() -> str:
        size = f"{settings.request_bytes / 2**20:.0f} MB"
        return page("index.html", _language(), tables=tables, facts=facts, size=size)

    @app.get("/model")
    def model() -> str:
        spoken = _language()
        return page("model.html", spoken, facts=model_page.facts(spoken), cards=model_page.cards)

    @app.get("/model/<int:number>.png")
    def model_picture(number: int) -> flask.Response:
        return _Found(model_page.pictures.get(number), "image/png").response()

    @app.get("/static/<name>")
    def static_file(name: str) -> flask.Response:
        return static[name].response() if name in static else flask.abort(404)

    @app.get("/openapi.json")
    def description() -> flask.Response:
        return openapi.response()

    @app.get("/sample.png")
    def sample() -> flask.Response:
        return _Found(_sample(), "image/png").response()


@functools.cache
def _sample() -> bytes:
    """A drawn slice with a lesion."""
    return encode_png(phantom.render(1, label="meningioma_tumor", seed=7).image)


class _Found:
    """Bytes that are served, or None, which are not there."""

    def __init__(self, content: bytes | None, kind: str):
        self._content, self._kind = content, kind
        self._tag = hashlib.sha256(content or b"").hexdigest()[:32]

    def response(self) -> flask.Response:
        if self._content is None:
            flask.abort(404)
        answer = flask.Response(self._content, content_type=self._kind)
        answer.set_etag(self._tag)
        answer.headers["Cache-Control"] = "no-cache"  # asked for again, with the tag
        answer.make_conditional(flask.request)
        return answer


class _File(_Found):
    """A file of the package, read at the start."""

    @classmethod
    def read(cls, path: pathlib.Path) -> "_File":
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        text = kind.startswith("text/") or kind == "application/json"
        return cls(path.read_bytes(), f"{kind}; charset=utf-8" if text else kind)


def _guard(app: flask.Flask, settings: Settings, counters: Counters) -> None:
    """What happens before and after every request."""

    @app.before_request
    def begin() -> None:
        flask.g.begin = time.monotonic()
        if settings.hosts is not None and _host() not in settings.hosts:
            raise RefusedError(421, _PROBLEMS[421])
        # Browsers say where a request comes from; programs do not.
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
        counters.request(route=rule.rule if rule else "other", status=response.status_code, seconds=seconds)
        return response


def _host() -> str | None:
    """The name that the request is addressed to, without a port."""
    try:
        return urllib.parse.urlsplit(f"//{flask.request.host}").hostname
    except ValueError:
        return None


def _add_errors(app: flask.Flask, counters: Counters) -> None:
    def problem(status: int, reason: str, **headers: str) -> flask.Response:
        content = {"error": language.told(reason, _language()), **language.parts(reason)}
        answer = flask.Response(json.dumps(content, ensure_ascii=False), status, content_type="application/json")
        answer.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return answer

    @app.errorhandler(RefusedError)
    def refused(error: RefusedError) -> flask.Response:
        return problem(error.status, error.reason)

    @app.errorhandler(BusyError)
    def busy(error: BusyError) -> flask.Response:
        counters.count("refused_total")
        return problem(503, _PROBLEMS[503], Retry_After=str(error.retry_after))

    @app.errorhandler(exceptions.HTTPException)
    def http(error: exceptions.HTTPException) -> flask.Response:
        status = error.code or 500
        allowed = (
            {"Allow": ", ".join(sorted(error.valid_methods or ()))}
            if isinstance(error, exceptions.MethodNotAllowed)
            else {}
        )
        return problem(status, _PROBLEMS.get(status, _PROBLEMS[400 if status < 500 else 500]), **allowed)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> flask.Response:
        # Neither the message nor the values on the way, which may show what was sent.
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "unknown"
        _log.error("internal error: %s at %s", type(error).__name__, where)
        return problem(500, _PROBLEMS[500])


def _resident_bytes() -> int:
    """Memory of the process, 0 where the system does not tell."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    import resource

    return pages * resource.getpagesize()
