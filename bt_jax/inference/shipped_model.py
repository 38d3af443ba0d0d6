"""The trained model that ships with the package, which commands use without `--model`. Its card lies beside it."""

import hashlib
import pathlib
from collections.abc import Sequence

from bt_jax.common.errors import UsageError
from bt_jax.data import kaggle_patients

FILE = pathlib.Path(__file__).parent.parent / "shipped" / "brain_tumor_mri.safetensors"
CARD = FILE.with_suffix(".md")


def choose(models: Sequence[str]) -> list[str]:
    """Returns the models that were given, or else the one that ships.

    Raises:
      UsageError: an empty name, or none was given and the file is missing from the package.
    """
    if "" in models:
        raise UsageError("--model is empty: give the workdir of a run or an exported file, or leave the flag out")
    if models:
        return list(models)
    if not FILE.is_file():
        raise UsageError("--model is missing, and so is the trained model of the package: give the workdir of a run")
    return [str(FILE)]


def name(model: str) -> str:
    """Returns a short name of a model: its folder or file, or the name and hash of the one that ships."""
    path = pathlib.Path(model)
    if path != FILE:
        return path.name or model
    return f"{FILE.stem} {hashlib.sha256(FILE.read_bytes()).hexdigest()[:8]}"


def describe(models: Sequence[str]) -> str:
    """Describes the models that answer, for the output of a command.

    Args:
      models: from `choose`.
    """
    return "; ".join(
        f"{name(model)} (ships with bt_jax; its card: {CARD})" if pathlib.Path(model) == FILE else model
        for model in models
    )


def list_fingerprints() -> frozenset[str]:
    """Lists the fingerprints of the images that the model was trained on: the Training images of the Kaggle set."""
    return frozenset(kaggle_patients.load_groups())
