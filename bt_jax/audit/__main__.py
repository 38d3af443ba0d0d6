"""Looks a data set over before anything is trained on it: a folder or zip with Training/<class>/ and Testing/<class>/.

    python -m bt_jax.audit --data=archive.zip --out=audit
    python -m bt_jax.audit --data=data/brain_tumor_mri --out=audit

Finds pixel-identical, changed, mirrored and rotated copies within and across the splits, twins with contradictory
labels, unreadable and odd files, images that belong together, and how well the class can be told from size, aspect,
border and brightness alone. Writes into the folder of --out:

    report.html      the findings, with pictures of what a person should look at; needs no network
    duplicates.csv   pairs of images that show the same picture
    audit.json       all of it for programs, with a patient or group for every image

It changes nothing in the data. Ends with 0 whatever it finds.
"""

import pathlib
import sys
import time
import warnings

from absl import flags

from bt_jax.common import cli, files
from bt_jax.common.errors import UsageError

_DATA = flags.DEFINE_string("data", "", "Folder or zip of images in class folders.")
_OUT = flags.DEFINE_string("out", "", "Folder for report.html, duplicates.csv and audit.json.")

_SECONDS_ON_TERMINAL, _SECONDS_IN_LOG = 0.5, 15.0  # between lines of progress


def main() -> None:
    """Audits and writes the report files."""
    for flag in (_DATA, _OUT):
        if not flag.value:
            raise UsageError(f"--{flag.name} is missing: see --help")
    from bt_jax.audit import inspection
    from bt_jax.data import sources  # after the flags, so that --help need not wait

    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # the report lists what is odd about files
    out = pathlib.Path(_OUT.value).expanduser()
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out is {_OUT.value!r}, which is a file: give a folder")
    source = sources.open_path(_DATA.value, field="--data")
    for warning in source.warnings:
        print(f"warning: {warning}")
    out.mkdir(parents=True, exist_ok=True)  # what cannot be written should fail before minutes of work
    started = time.monotonic()
    looked_at = inspection.inspect(source, progress=_Line("images read"))
    if not looked_at.records:
        raise UsageError(f"{_DATA.value} holds no readable images: {len(looked_at.unreadable)} files are none")
    from bt_jax.audit import findings, html_report, summary  # last, since scikit-learn takes a second to load

    found = findings.examine(source, looked_at, progress=_Line("likely pairs compared"))
    summary.write(out, found)
    files.write_text(out / "report.html", html_report.render(found))
    for line in summary.summarise(found):
        print(line)
    print(f"report: {out / 'report.html'} ({time.monotonic() - started:.0f} s)")


class _Line:
    """Progress: a line written over itself on a terminal, one now and then elsewhere."""

    def __init__(self, what: str):
        self.what = what
        self.shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        terminal, over = sys.stderr.isatty(), done == total
        pause = _SECONDS_ON_TERMINAL if terminal else _SECONDS_IN_LOG
        if not over and time.monotonic() - self.shown < pause:
            return
        self.shown = time.monotonic()
        start, end = ("\r", "\n" if over else "") if terminal else ("", "\n")
        print(f"{start}{done:,} of {total:,} {self.what}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
