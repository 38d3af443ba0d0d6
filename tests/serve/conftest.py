"""A model that answers in milliseconds, and the application around it."""

import pathlib
from collections.abc import Iterator

import flask
import pytest
from flask.testing import FlaskClient

from bt_jax.inference.predictor import Predictor
from bt_jax.serve import app
from bt_jax.serve.engine import Engine
from bt_jax.serve.model_page import ModelPage
from bt_jax.serve.settings import Settings
from tests import untrained


@pytest.fixture(scope="package")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Of a run, with a model card."""
    folder = untrained.write(tmp_path_factory.mktemp("serve") / "run")
    (folder / "report").mkdir()
    (folder / "report" / "model_card.md").write_text("# The card\n\n| a | b | c |\n|---|--:|--:|\n| 1 | 2 | 3 |\n")
    return folder


@pytest.fixture(scope="package")
def predictor(workdir: pathlib.Path) -> Predictor:
    return Predictor.load([str(workdir)], batch_size=4)


@pytest.fixture(scope="package")
def engine(predictor: Predictor) -> Iterator[Engine]:
    made = Engine(predictor, batch_size=4, capacity=64)
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="package")
def settings() -> Settings:
    return Settings(request_bytes=2**20, files=6, pixels=2**20, slices=40, unpacked_bytes=2**20, seconds=30)


@pytest.fixture(scope="package")
def application(engine: Engine, settings: Settings, workdir: pathlib.Path) -> flask.Flask:
    return app.create(engine, settings, ModelPage(engine.predictor, [str(workdir)]))


@pytest.fixture
def client(application: flask.Flask) -> FlaskClient:
    return application.test_client()
