"""The pages and the API as a WSGI application. It stores nothing and opens no file that a request names."""

import contextlib
import functools
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import flask

from bt_jax.common.messages import Message
from bt_jax.data.io.decode import encode_png
from bt_jax.data.phantoms import phantom
from bt_jax.inference import heat_map
from bt_jax.serve import i18n
from bt_jax.serve.api import Api, RefusedError, RequestOptions, Upload
from bt_jax.serve.counters import CONTENT_TYPE, Counters
from bt_jax.serve.engine import Engine
from bt_jax.serve.forms import FILE_FIELD, FormRequest
from bt_jax.serve.middleware import CachedContent, PackageFile, add_error_handlers, add_request_checks, choose_language
from bt_jax.serve.model_page import ModelPage
from bt_jax.serve.settings import Settings

_FOLDER = pathlib.Path(__file__).parent
_FIELDS = ("lang", "slice", "picture", "explain", "class")
_LONGEST_NAME = 200  # characters of a file's name that are echoed


def create(engine: Engine, settings: Settings, model_page: ModelPage) -> flask.Flask:
    """Creates the application.

    Args:
      engine: the engine that runs the model.
      settings: the limits.
      model_page: the facts and model cards to show.
    """
    app = flask.Flask(__name__, static_folder=None)
    app.request_class = FormRequest
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config.update(
        MAX_CONTENT_LENGTH=settings.request_bytes,
        MAX_FORM_PARTS=settings.files + len(_FIELDS),
        MAX_FORM_MEMORY_SIZE=2**18,  # of fields, and of werkzeug's buffer for files, which needs just over 64 KiB
    )
    predictions = engine.predictions
    counters = Counters(
        {
            "queue_slices": lambda: len(predictions),
            "queue_capacity": lambda: predictions.capacity,
            "steps": lambda: predictions.steps,
            "slices_in_steps": lambda: predictions.pieces,
            "resident_bytes": _measure_resident_bytes,
        }
    )
    api, places = Api(engine, settings), threading.BoundedSemaphore(settings.requests)
    add_request_checks(app, settings, counters)
    add_error_handlers(app, counters)
    _add_pages(app, engine, settings, model_page)

    @app.post("/api/predict")
    def predict() -> flask.Response:
        with _take_place(places, engine):
            records = api.predict(_read_uploads(settings), _read_options(engine))
        for record in records:
            (counters.errors if "error" in record else counters.slices).inc()
            if record.get("heat_map"):
                counters.heat_maps.inc()
        return flask.jsonify(records=records, models=model_page.names)

    @app.get("/healthz")
    def get_health() -> flask.Response:
        return flask.jsonify(status="ok", warm=engine.warm, models=model_page.names, engines=engine.predictor.engines)

    @app.get("/metrics")
    def get_metrics() -> flask.Response:
        return flask.Response(counters.format(), content_type=CONTENT_TYPE)

    return app


@contextlib.contextmanager
def _take_place(places: threading.BoundedSemaphore, engine: Engine) -> Iterator[None]:
    """Takes a place among the requests in progress, and raises `BusyError` at once if there is none."""
    if not places.acquire(blocking=False):
        raise engine.predictions.make_busy_error()
    try:
        yield
    finally:
        places.release()


def _read_uploads(settings: Settings) -> list[Upload]:
    found = flask.request.files.getlist(FILE_FIELD)
    if not found:
        raise RefusedError(400, Message("no_file", "send files in the field `file` of a form (multipart/form-data)"))
    if len(found) > settings.files:
        text = "{count} files exceed the limit of {limit} per request"
        raise RefusedError(400, Message("too_many_files", text, count=len(found), limit=settings.files))
    return [Upload((file.filename or "image")[:_LONGEST_NAME], file.read()) for file in found]


def _read_options(engine: Engine) -> RequestOptions:
    """Reads the fields of the form other than the files."""
    form = flask.request.form
    for field in form:
        if field not in _FIELDS:
            raise RefusedError(
                400,
                Message(
                    "unknown_field", "unknown field: the fields are {known}", known=", ".join((FILE_FIELD, *_FIELDS))
                ),
            )
    explain = _read_choice("explain", heat_map.METHODS)
    if explain and explain not in engine.predictor.methods:
        text = "heat maps by {method} are not available from this model file"
        raise RefusedError(400, Message("no_heat_maps", text, method=explain))
    number = form.get("slice")
    if number is not None and not (number.isascii() and number.isdecimal() and 1 <= int(number[:9]) < 10**8):
        raise RefusedError(400, Message("bad_slice", "`slice` must be an integer of at least 1"))
    return RequestOptions(
        language=_read_choice("lang", i18n.LANGUAGES) or choose_language(),
        number=int(number) if number else None,
        picture=_read_choice("picture", ("0", "1")) == "1",
        explain=explain,
        label=_read_choice("class", engine.predictor.class_names),
    )


def _read_choice(field: str, allowed: tuple[str, ...]) -> str | None:
    value = flask.request.form.get(field)
    if value and value not in allowed:
        text = "`{field}` must be one of {allowed}"
        raise RefusedError(400, Message("bad_choice", text, field=field, allowed=", ".join(allowed)))
    return value or None


def _add_pages(app: flask.Flask, engine: Engine, settings: Settings, model_page: ModelPage) -> None:
    static = {path.name: PackageFile.read(path) for path in sorted((_FOLDER / "static").iterdir()) if path.is_file()}
    openapi = PackageFile.read(_FOLDER / "openapi.json")
    tables = {name: i18n.load_texts(name) for name in i18n.LANGUAGES}
    facts = {
        "classes": engine.predictor.class_names,
        "methods": engine.predictor.methods,
        "requestBytes": settings.request_bytes,
    }

    def render(template: str, name: str, **values: Any) -> str:
        return flask.render_template(template, lang=name, texts=i18n.load_texts(name)["page"], **values)

    @app.get("/")
    def show_index() -> str:
        size = f"{settings.request_bytes / 2**20:.0f} MB"
        return render(
            "index.html", choose_language(), tables=tables, facts=facts, size=size, models="; ".join(model_page.names)
        )

    @app.get("/model")
    def show_model() -> str:
        name = choose_language()
        return render("model.html", name, facts=model_page.list_facts(name), cards=model_page.cards)

    @app.get("/model/<int:number>.png")
    def send_model_picture(number: int) -> flask.Response:
        return CachedContent(model_page.pictures.get(number), "image/png").respond()

    @app.get("/static/<name>")
    def send_static_file(name: str) -> flask.Response:
        return static[name].respond() if name in static else flask.abort(404)

    @app.get("/openapi.json")
    def send_openapi() -> flask.Response:
        return openapi.respond()

    @app.get("/sample.png")
    def send_sample() -> flask.Response:
        return CachedContent(_draw_sample(), "image/png").respond()


@functools.cache
def _draw_sample() -> bytes:
    """Draws a phantom slice with a lesion."""
    return encode_png(phantom.render(1, label="meningioma_tumor", seed=7).image)


def _measure_resident_bytes() -> int:
    """Measures the resident memory of the process in bytes; 0 if the system does not report it."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    import resource

    return pages * resource.getpagesize()
