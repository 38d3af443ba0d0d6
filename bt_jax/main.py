"""Trains a model on a folder of images and writes a report. Run again with the same workdir, it resumes.

    python -m bt_jax.main --config=configs/effnet.py:demo
    python -m bt_jax.main --config=configs/effnet.py:cpu --config.data.dir=archive.zip --workdir=runs/first
    python -m bt_jax.main --config=configs/effnet.py --config.data.fold=-1 --config.train.batch_size=128

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


def main() -> int:
    """Dispatches to training."""
    if _CONFIG.value is None:
        raise UsageError("--config is missing: name a configuration, such as --config=configs/effnet.py:demo")
    if not isinstance(_CONFIG.value, ml_collections.ConfigDict):  # ml_collections defers the error to the first use
        raise UsageError(f"--config: {config_flags.get_config_filename(flags.FLAGS['config'])} cannot be read")
    from bt_jax import train  # after the flags: grain defines flags of its own, and --help need not wait for JAX

    commandline.prepare_to_compute()
    return train.train_and_evaluate(_CONFIG.value, pathlib.Path(_WORKDIR.value or _default_workdir()))


def _default_workdir() -> str:
    name, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return f"runs/{pathlib.Path(name).stem}{'_' if variant else ''}{variant}"


if __name__ == "__main__":
    commandline.run(main)
