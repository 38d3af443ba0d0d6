"""Serves a trained model: a web page for images, and an HTTP API for programs.

    python -m bt_jax.serve
    python -m bt_jax.serve --model=runs/first
    python -m bt_jax.serve --model=model.onnx --port=8080
    python -m bt_jax.serve --model=runs/first --host=0.0.0.0 --host_name=scans.example.org

The page is at http://127.0.0.1:5000/. Programs post files to the API, which /openapi.json describes:

    curl -F file=@scan.png http://127.0.0.1:5000/api/predict

Images, DICOM files and NIfTI volumes are processed in memory and never stored. The server binds to localhost by default
and has no authentication: put it behind an authenticating proxy before exposing it with --host. Ctrl-C or SIGTERM stops
it after it has answered the requests that have arrived.

This is a research tool, not a medical device: nothing it says may guide a patient's care.
"""

import ipaddress
import sys
from collections.abc import Sequence

from absl import flags

from bt_jax.common import cli, signals
from bt_jax.inference import shipped_model

_MODEL = flags.DEFINE_multi_string(
    "model",
    [],
    "Workdir of a run or cross-validation, or an exported file. Repeat the flag for an ensemble. Default: the model "
    "that ships with bt_jax.",
)
_ENGINE = flags.DEFINE_enum(
    "engine", "auto", ["auto", "onnxruntime", "openvino"], "What runs ONNX files; JAX runs all others."
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to bind to; 0.0.0.0 is every address of this machine.")
_PORT = flags.DEFINE_integer("port", 5000, "Port to bind to; 0 is any free port.", 0, 65535)
_HOST_NAME = flags.DEFINE_multi_string("host_name", [], "Host name that requests may use, such as that of a proxy.")
_MEGABYTES = flags.DEFINE_integer("max_megabytes", 64, "Size limit of a request in megabytes.", 1, 512)
_SECONDS = flags.DEFINE_float("max_seconds", 60.0, "Time limit of a request in seconds.", 1.0, 600.0)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Slices per step, from one or several requests.", 1, 256)
_QUEUE = flags.DEFINE_integer("queue", 128, "Concurrent requests; the server answers 503 to more.", 1, 1024)


def main() -> int:
    """Serves until it is stopped, then returns 0."""
    models = shipped_model.choose(_MODEL.value)
    # Imported here so that --help, or the error for a port in use, does not wait for JAX.
    from bt_jax.serve import server

    with signals.catch_signals() as stop, server.bind(_HOST.value, _PORT.value) as listener:
        from bt_jax.data.io import file_reader
        from bt_jax.inference import loading
        from bt_jax.inference.predictor import Predictor
        from bt_jax.serve import app
        from bt_jax.serve.engine import Engine
        from bt_jax.serve.model_page import ModelPage
        from bt_jax.serve.settings import Settings

        if not all(map(loading.is_onnx, models)):
            cli.prepare_to_compute()
        file_reader.silence_parsers()
        predictor = Predictor.load(models, batch_size=_BATCH_SIZE.value, engine=_ENGINE.value)
        engine = Engine(predictor, batch_size=_BATCH_SIZE.value)
        engine.start()
        settings = Settings(
            request_bytes=_MEGABYTES.value * 2**20,
            requests=_QUEUE.value,
            seconds=_SECONDS.value,
            hosts=_list_host_names(listener.getsockname()[0]),
        )
        application = app.create(engine, settings, ModelPage(predictor, models))
        serving = server.Server(application, listener, request_bytes=settings.request_bytes, threads=settings.requests)
        _announce(listener.getsockname(), models, public=settings.hosts is None)
        serving.run(lambda: bool(stop))
        serving.close()
        engine.close()
    print("stopped", flush=True)
    return 0


def _list_host_names(address: str) -> frozenset[str] | None:
    """Lists the host names that requests may use; None allows all.

    On localhost only its own names are allowed, since another site could resolve its name to this machine.
    """
    if not ipaddress.ip_address(address).is_loopback:
        return frozenset(_HOST_NAME.value) or None
    return frozenset({"localhost", "127.0.0.1", "::1", address, *_HOST_NAME.value})


def _announce(address: tuple[str, int], models: Sequence[str], *, public: bool) -> None:
    host, port = address[:2]
    if public:
        print(f"warning: the server has no authentication: anyone who can reach {host} can use it", file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {shipped_model.describe(models)} at http://{shown}:{port}/ (Ctrl-C stops it)", flush=True)


if __name__ == "__main__":
    cli.run(main)
