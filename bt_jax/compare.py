"""Puts runs side by side: scores, sizes and times, whether they differ by more than luck, and their curves.

    python -m bt_jax.compare --out=comparison runs/mlp runs/cnn runs/effnet_cpu
    python -m bt_jax.compare runs/study --reference=hidden=64 --out=comparison

A directory is the workdir of a run or of a cross-validation, or holds such folders at any depth. Runs that differ in
nothing but the seed are one row, with the mean and the range of each number; so are the folds of a cross-validation.
Every other row is tested against the first, or the one named by --reference, on the same images. Unfinished runs are
named and left out. Writes comparison.md, comparison.csv and curves.png. This is a research tool, not a medical device.
"""

import pathlib

from absl import flags

from bt_jax.common import cli
from bt_jax.common.errors import UsageError

_OUT = flags.DEFINE_string("out", "", "Folder for comparison.md, comparison.csv and curves.png.")
_REFERENCE = flags.DEFINE_string("reference", "", "Name of the row to test the others against. Default: the first.")


def main(directories: list[str]) -> None:
    """Reads and writes."""
    if not _OUT.value:
        raise UsageError("--out is missing: see --help")
    if not directories:
        raise UsageError("no run is named: give the workdirs of runs, such as runs/mlp runs/cnn")
    from bt_jax.experiments import comparison  # after the flags, so that --help need not wait for JAX

    comparison.write_comparison(
        [pathlib.Path(directory) for directory in directories],
        pathlib.Path(_OUT.value),
        reference=_REFERENCE.value,
    )


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
