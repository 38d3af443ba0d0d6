"""The trained model that ships with the package, which commands use without `--model`. Its card lies beside it."""

import hashlib
import pathlib
from collections.abc import Sequence

from bt_jax.common.errors import UsageError

FILE = pathlib.Path(__file__).parent.parent / "shipped" / "brain_tumor_mri.safetensors"
CARD = FILE.with_suffix(".md")


def choose(models: Sequence[str]) -> list[str]:
    """Returns the models that were given, or else the one that ships.

    Raises:
      UsageError: none was given, and the file is missing from the package.
    """
    if models:
        return list(models)
    if not FILE.is_file():
        raise UsageError("--model is missing, and so is the trained model of the package: give the workdir of a run")
    return [str(FILE)]


def describe(model: str) -> str:
    """Returns what people call a model: the value of `--model`, or the name and hash of the one that ships."""
    path = pathlib.Path(model)
    if path != FILE:
        return path.name or model
    return f"{FILE.stem} {hashlib.sha256(FILE.read_bytes()).hexdigest()[:8]}, which ships with bt_jax"


def announce(models: Sequence[str]) -> str:
    """Returns the line that a command says when it chose the model itself; empty if it was given one."""
    return "" if models else f"model: {describe(str(FILE))}; its card is {CARD}"
