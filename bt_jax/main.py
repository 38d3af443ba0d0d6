"""Trains a model on a folder of images and writes a report. Run again with the same workdir, it resumes.

    python -m bt_jax.main --config=configs/effnet.py:demo
    python -m bt_jax.main --config=configs/effnet.py:cpu --config.data.dir=archive.zip --workdir=runs/first
    python -m bt_jax.main --config=configs/effnet.py --config.data.fold=-1 --config.train.batch_size=128
    python -m bt_jax.main --config=configs/effnet.py --summary=effnet.svg

A configuration is a commented Python file; any of its fields can be set as --config.FIELD=VALUE. This is a research
tool, not a medical device.
"""

import pathlib

import ml_collections
from absl import flags
from ml_collections import config_flags

from bt_jax import commandline
from bt_jax.errors import UsageError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with a variant after a colon, such as configs/effnet.py:cpu."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, logs and the report. Default: runs/ and the name of the configuration."
)
_SUMMARY = flags.DEFINE_string(
    "summary", None, "Trains nothing: prints the model's layers and draws it into this file, .svg or .png."
)


def main() -> int:
    """Dispatches to training, or to the picture of the model."""
    if _CONFIG.value is None:
        raise UsageError("--config is missing: name a configuration, such as --config=configs/effnet.py:demo")
    if not isinstance(_CONFIG.value, ml_collections.ConfigDict):  # ml_collections defers the error to the first use
        raise UsageError(f"--config: {config_flags.get_config_filename(flags.FLAGS['config'])} cannot be read")
    if _SUMMARY.value is not None:
        return _summarise(_CONFIG.value, pathlib.Path(_SUMMARY.value))
    from bt_jax import train  # after the flags: grain defines flags of its own, and --help need not wait for JAX

    commandline.prepare_to_compute()
    folder = pathlib.Path(_WORKDIR.value or _default_workdir())
    return train.train_and_evaluate(_CONFIG.value, folder, began=commandline.BEGAN)


def _summarise(config: ml_collections.ConfigDict, picture: pathlib.Path) -> int:
    from bt_jax import diagram, labels, summary
    from bt_jax.defaults import constructor_options
    from bt_jax.models import registry

    diagram.check(picture)
    size = config.preprocess.size or registry.native_size(config.model.name)
    classes = len(labels.BRAIN_TUMOR_CLASSES)
    network = registry.create(config.model.name, classes=classes, size=size, **constructor_options({**config.model}))
    segments = summary.segments(*network, size=size)
    print(summary.table(segments))
    diagram.draw(picture, segments, title=f"{config.model.name}, {classes} classes", size=size)
    print(f"picture: {picture}")
    return 0


def _default_workdir() -> str:
    name, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return f"runs/{pathlib.Path(name).stem}{'_' if variant else ''}{variant}"


if __name__ == "__main__":
    commandline.run(main)
