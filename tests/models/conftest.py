import importlib.util
import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.models import registry

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


def golden_module(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_{name}", GOLDEN / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    return GOLDEN


@pytest.fixture(scope="session")
def procedural() -> types.ModuleType:
    """Weights and images by formula."""
    return golden_module("procedural")


@pytest.fixture(scope="session")
def reference() -> types.ModuleType:
    """The reference implementations; skips where they are not installed."""
    for package in ("torch", "timm", "keras"):
        pytest.importorskip(package, reason="needs torch, timm and keras")
    return golden_module("reference")


@pytest.fixture(scope="session")
def nano() -> tuple[Any, dict, dict]:
    """Network, parameters and statistics of the smallest model, with procedural values and 10 classes."""
    made = golden_module("procedural")
    network, params, batch_stats = registry.create("efficientnet_nano", classes=10)
    gain = made.GAINS["efficientnet_nano"]
    return network, *jax.tree.map(jnp.asarray, (made.weights(params, gain=gain), made.weights(batch_stats, gain=gain)))


@pytest.fixture(scope="session")
def logits(golden: pathlib.Path) -> dict[str, np.ndarray]:
    """The references' logits."""
    with np.load(golden / "logits.npz") as file:
        return dict(file)
