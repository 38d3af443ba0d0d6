"""The pages and the interface, as an application for any WSGI server. It keeps nothing and opens no file by request."""

import contextlib
import functools
import io
import pathlib
import threading
from collections.abc import Iterator
from typing import IO, Any

import flask

from bt_jax.common.messages import Sentence
from bt_jax.data.io.decode import encode_png
from bt_jax.data.phantoms import phantom
from bt_jax.inference import attribution
from bt_jax.serve import i18n
from bt_jax.serve.api import Api, RefusedError, Upload, Wishes
from bt_jax.serve.counters import Counters
from bt_jax.serve.engine import Engine
from bt_jax.serve.middleware import Found, PackageFile, add_errors, guard, spoken
from bt_jax.serve.model_page import ModelPage
from bt_jax.serve.settings import Settings

_FOLDER = pathlib.Path(__file__).parent
_FIELDS = ("lang", "slice", "picture", "explain", "class")
_LONGEST_NAME = 200  # characters of a file's name that are said again


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
        MAX_FORM_MEMORY_SIZE=2**18,  # of fields; and of werkzeug's buffer for files, which holds 64 KiB and a bit
    )
    counters = Counters()
    app.extensions["bt_jax"] = counters
    api, places = Api(engine, settings), threading.BoundedSemaphore(settings.requests)
    guard(app, settings, counters)
    add_errors(app, counters)
    _add_pages(app, engine, settings, model_page)

    @app.post("/api/predict")
    def predict() -> flask.Response:
        with _one_of(places, engine):
            records = api.records(_uploads(settings), _wishes(engine))
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


@contextlib.contextmanager
def _one_of(places: threading.BoundedSemaphore, engine: Engine) -> Iterator[None]:
    """A place among the requests that are being answered; who finds none is told so at once."""
    if not places.acquire(blocking=False):
        raise engine.predictions.busy()
    try:
        yield
    finally:
        places.release()


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
    explain = _choice("explain", attribution.METHODS)
    if explain and not engine.explains:
        raise RefusedError(
            400, Sentence("no_heat_maps", "the model is a StableHLO file, for which there are no heat maps")
        )
    number = form.get("slice")
    if number is not None and not (number.isascii() and number.isdecimal() and 1 <= int(number[:9]) < 10**8):
        raise RefusedError(400, Sentence("bad_slice", "`slice` is a whole number from 1"))
    return Wishes(
        language=_choice("lang", i18n.LANGUAGES) or spoken(),
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


def _add_pages(app: flask.Flask, engine: Engine, settings: Settings, model_page: ModelPage) -> None:
    static = {path.name: PackageFile.read(path) for path in sorted((_FOLDER / "static").iterdir()) if path.is_file()}
    openapi = PackageFile.read(_FOLDER / "openapi.json")
    tables = {name: i18n.table(name) for name in i18n.LANGUAGES}
    facts = {
        "classes": engine.predictor.class_names,
        "explains": engine.explains,
        "methods": attribution.METHODS,
        "requestBytes": settings.request_bytes,
    }

    def page(template: str, name: str, **values: Any) -> str:
        return flask.render_template(template, lang=name, texts=i18n.table(name)["page"], **values)

    @app.get("/")
    def index() -> str:
        size = f"{settings.request_bytes / 2**20:.0f} MB"
        return page("index.html", spoken(), tables=tables, facts=facts, size=size)

    @app.get("/model")
    def model() -> str:
        name = spoken()
        return page("model.html", name, facts=model_page.facts(name), cards=model_page.cards)

    @app.get("/model/<int:number>.png")
    def model_picture(number: int) -> flask.Response:
        return Found(model_page.pictures.get(number), "image/png").response()

    @app.get("/static/<name>")
    def static_file(name: str) -> flask.Response:
        return static[name].response() if name in static else flask.abort(404)

    @app.get("/openapi.json")
    def description() -> flask.Response:
        return openapi.response()

    @app.get("/sample.png")
    def sample() -> flask.Response:
        return Found(_sample(), "image/png").response()


@functools.cache
def _sample() -> bytes:
    """A drawn slice with a lesion."""
    return encode_png(phantom.render(1, label="meningioma_tumor", seed=7).image)


def _resident_bytes() -> int:
    """Memory of the process, 0 where the system does not tell."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    import resource

    return pages * resource.getpagesize()
