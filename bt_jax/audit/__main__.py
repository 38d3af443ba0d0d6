"""Audits a data set before training: a folder or zip with Training/<class>/ and Testing/<class>/.

    python -m bt_jax.audit --data=archive.zip --out=audit
    python -m bt_jax.audit --data=data/brain_tumor_mri --out=audit

Finds exact, near, mirrored and rotated duplicates within and across the splits, duplicates with contradictory labels,
unreadable and unusual files, and images of the same patient. Measures how well size, aspect ratio, border and
brightness alone predict the class. Writes to the folder --out:

    report.html      the findings, with the images that a person should check; needs no network
    duplicates.csv   pairs of images that show the same picture
    audit.json       all findings for programs, with a patient or group for every image

The audit does not change the data. It exits with 0, whatever it finds.
"""

import pathlib
import sys
import time
import warnings

from absl import flags

from bt_jax.common import cli, files
from bt_jax.common.errors import UsageError

_DATA = flags.DEFINE_string("data", "", "Folder or zip with images in class folders.")
_OUT = flags.DEFINE_string("out", "", "Folder to write report.html, duplicates.csv and audit.json to.")

_SECONDS_ON_TERMINAL, _SECONDS_IN_LOG = 0.5, 15.0  # between lines of progress


def main() -> None:
    """Runs the audit and writes the report files."""
    for flag in (_DATA, _OUT):
        if not flag.value:
            raise UsageError(f"--{flag.name} is missing: see --help")
    from bt_jax.audit import inspection
    from bt_jax.data import sources  # after the flags, so that --help need not wait

    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # the report lists unusual files
    out = pathlib.Path(_OUT.value)
    files.check_folder(out, flag="out")
    source = sources.open_path(_DATA.value, field="--data")
    for warning in source.warnings:
        print(f"warning: {warning}")
    started = time.monotonic()
    inspected = inspection.inspect(source, progress=_Line("images read"))
    if not inspected.records:
        raise UsageError(f"{_DATA.value} holds no readable images: {len(inspected.unreadable)} files are unreadable")
    from bt_jax.audit import findings, html_report, summary  # last, since scikit-learn takes a second to load

    found = findings.examine(source, inspected, progress=_Line("candidate pairs compared"))
    summary.write(out, found)
    files.write_text(out / "report.html", html_report.render(found))
    for line in summary.summarise(found):
        print(line)
    print(f"report: {out / 'report.html'} ({time.monotonic() - started:.0f} s)")


class _Line:
    """A progress line: overwritten in place on a terminal, printed every 15 seconds otherwise."""

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
