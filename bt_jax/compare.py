"""Compares runs: scores, sizes, times, significance tests, and curves.

    python -m bt_jax.compare --out=comparison runs/mlp runs/cnn runs/effnet_cpu
    python -m bt_jax.compare runs/study --reference=hidden=64 --out=comparison

A directory is the workdir of a run or of a cross-validation, or contains such folders at any depth. Runs that differ
only in the seed make one row, with mean and range of each number. So do the folds of a cross-validation. Every other
row is tested against the first one, or against --reference, on the same images. Unfinished runs are reported and
excluded. The command writes comparison.md, comparison.csv and curves.png. This is a research tool, not a medical
device.
"""

import pathlib

from absl import flags

from bt_jax.common import cli, files
from bt_jax.common.errors import UsageError

_OUT = flags.DEFINE_string("out", "", "Folder for comparison.md, comparison.csv and curves.png.")
_REFERENCE = flags.DEFINE_string("reference", "", "Row that the others are tested against. Default: the first row.")


def main(directories: list[str]) -> None:
    """Reads the runs and writes the comparison."""
    if not _OUT.value:
        raise UsageError("--out is missing: see --help")
    if not directories:
        raise UsageError("no run is given: name the workdirs of runs, such as runs/mlp runs/cnn")
    out = pathlib.Path(_OUT.value)
    files.check_folder(out, flag="out")
    from bt_jax.experiments import comparison  # imported late, so that --help need not wait for JAX

    comparison.write_comparison(
        [pathlib.Path(directory) for directory in directories],
        out,
        reference=_REFERENCE.value,
    )


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
