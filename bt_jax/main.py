"""Trains a model on a folder of images and writes a report. Run again with the same workdir, it resumes.

    python -m bt_jax.main --config=configs/effnet.py:demo
    python -m bt_jax.main --config=configs/effnet.py:cpu --config.data.dir=archive.zip --workdir=runs/first
    python -m bt_jax.main --config=configs/effnet.py --config.data.fold=-1 --config.train.batch_size=128

A configuration is a commented Python file; any of its fields can be set as --config.FIELD=VALUE. This is a research
tool, not a medical device.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from bt_jax import commandline

_CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/effnet.py", "Configuration file, with a variant after a colon, such as configs/effnet.py:cpu."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, logs and the report. Default: runs/ and the name of the configuration."
)


def main() -> int:
    """Dispatches to training."""
    from bt_jax import train  # after the flags: grain defines flags of its own, and --help need not wait for JAX

    commandline.keep_compiled_programs()
    return train.train_and_evaluate(_CONFIG.value, pathlib.Path(_WORKDIR.value or _default_workdir()))


def _default_workdir() -> str:
    name, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return f"runs/{pathlib.Path(name).stem}{'_' if variant else ''}{variant}"


if __name__ == "__main__":
    commandline.run(main)
