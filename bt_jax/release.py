"""Makes a final model: a cross-validation, a model trained on all images and calibrated by it, one file, and its card.

    python -m bt_jax.release --config=configs/effnet.py:cpu --config.data.fold=-1 --workdir=runs/all --out=a.safetensors
    python -m bt_jax.predict --model=a.safetensors scan.png

The configuration is that of the folds: all of them with data.fold=-1, else one. The final model has the same plan and
trains on all images, so none is left to measure it. Its temperature, its out-of-distribution threshold and the
confidence below which its answers carry a warning come from the folds. The card beside the file, a.md, has the scores
of the folds and says what the answers without a warning are worth. Run again with the same workdir, the command goes
on where it stopped. It runs on one host. This is a research tool, not a medical device.
"""

import functools
import pathlib

import ml_collections
from absl import flags
from ml_collections import config_flags

from bt_jax.common import cli, files
from bt_jax.common.errors import UsageError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file of the folds.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder for the runs.")
_OUT = flags.DEFINE_string("out", "", "File for the model, ending in .safetensors.")
_ACCURACY = flags.DEFINE_float("accuracy", 0.97, "Accuracy that the answers without a warning shall have.", 0.0, 1.0)


def main() -> int:
    """Checks flags and configuration, trains, and writes the file."""
    for flag in (_CONFIG, _WORKDIR, _OUT):
        if not flag.value:
            raise UsageError(f"--{flag.name} is missing: see --help")
    config, workdir, out = _CONFIG.value, pathlib.Path(_WORKDIR.value), pathlib.Path(_OUT.value)
    if not isinstance(config, ml_collections.ConfigDict):  # ml_collections defers the error to the first use
        raise UsageError(f"--config: {config_flags.get_config_filename(flags.FLAGS['config'])} cannot be read")
    files.check_folder(workdir, flag="workdir")
    files.check_output(out, flag="out")
    files.check_output(out.with_suffix(".md"), flag="out")
    if out.suffix != ".safetensors":
        raise UsageError(f"--out is {str(out)!r}: use a name that ends in .safetensors")
    # Imported late: grain defines flags of its own, and --help need not wait for JAX.
    from bt_jax.experiments import final_model
    from bt_jax.training import config_check, program_cache, train

    config_check.check_config(config)
    final_model.check_config(config)
    cli.prepare_to_compute()
    with program_cache.share_programs():
        return final_model.release(
            config,
            workdir,
            out,
            accuracy=_ACCURACY.value,
            train=train.train_and_evaluate,
            say=functools.partial(print, flush=True),
        )


if __name__ == "__main__":
    cli.run(main)
