"""Formats a comparison of runs as Markdown, as CSV, and as a few lines for the terminal."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bt_jax.common.formatting import format_duration, format_markdown_table
from bt_jax.common.spread import Spread
from bt_jax.experiments.finished_runs import FinishedRun
from bt_jax.models import summary


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """Runs that differ only in seed and fold.

    Attributes:
      name: made from the settings that differ.
      settings: the fields in which the rows of this comparison differ.
      runs: at least one.
      scores: `accuracy`, `macro_f1`, `recall CLASS`, `probe_recall`, `training_s`, `images_per_s`, and of the Testing
        folder `testing_clean_n`, `testing_clean_accuracy` and the same for `leaked`; a score that no run has is absent.
      parameters: of the model; None if unknown.
      flops: of the forward pass of one image; None if unknown; see `summary.Layer`.
    """

    name: str
    settings: Mapping[str, Any]
    runs: tuple[FinishedRun, ...]
    scores: Mapping[str, Spread]
    parameters: int | None
    flops: int | None

    @property
    def seeds(self) -> int:
        """The number of different seeds among the runs."""
        return len({run.seed for run in self.runs})

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the metrics."""
        return list(self.runs[0].scores["validation"]["per_class"])


@dataclasses.dataclass(frozen=True)
class Significance:
    """Results of the significance tests of a row against the reference, on the same images.

    Attributes:
      seeds: the seeds that both rows have.
      counts: for each seed the number of images that only the reference got right, and that only this row got right.
      p_values: of McNemar's exact test, one for each seed.
      combined: one p for all seeds.
      by_group: p of the randomisation test over groups of images such as patients, for all seeds.
      groups: number of groups.
    """

    seeds: tuple[int, ...]
    counts: tuple[tuple[int, int], ...]
    p_values: tuple[float, ...]
    combined: float
    by_group: float
    groups: int


Tests = Mapping[str, Significance | str]

_NOTES = (
    "A row has all runs with the same settings. A row of several runs (seeds, or folds of a cross-validation, with "
    "equal weight) shows the mean, and in brackets the minimum and the maximum.",
    "The scores are measured on the validation images, with the checkpoint of the lowest validation loss. The same "
    "images selected that checkpoint, in all rows alike.",
    "MFLOP are the operations of the forward pass of one image. Each multiplication and each addition of convolutions "
    "and matrix products counts as one operation. They are counted in the traced program in its plain form; the "
    "compiler's own count differs. The training time covers all stages, including evaluation, checkpoints and "
    "compilation, on the machine of the run. Images/s is the median over the rows of the run's log, which time the "
    "training steps alone.",
)
_PROBE_NOTE = (
    "Shift probe is the recall on images of a class from another source, which were excluded from training and "
    "validation (`config.data.probe`)."
)
_TEST_NOTES = (
    "McNemar's exact test compares two runs on the same validation images. It tests whether the images that only one "
    "of the runs got right are split more unevenly than by chance. Runs of the same seed are paired, and the folds of "
    "a seed are pooled. Several seeds give several tests; the table shows the median p and the range. *Combined* is "
    "twice the median p, at most 1. It is a valid p even though the tests share their images (Vovk and Wang, 2020).",
    "McNemar's test assumes independent images. Slices of one patient tend to be right or wrong together, so its p is "
    "too small. *By patient* sums the differences over the images and seeds of each patient (or other group), and "
    "flips their signs at random 9,999 times. Rely on this column first.",
    "Each p is for one comparison. If you test several rows, multiply p by their number (Bonferroni) before you call "
    "one of them better.",
)


def format_markdown(
    rows: Sequence[ComparisonRow],
    *,
    tests: Tests,
    reference: str,
    left_out: Sequence[str] = (),
    notice: str | None = None,
) -> str:
    """Formats the whole comparison, with notes on its numbers."""
    classes = list(dict.fromkeys(name for row in rows for name in row.classes))
    header = [
        "Row",
        "Seeds",
        "Runs",
        "Accuracy",
        "Macro-F1",
        *(f"Recall {_format_class_name(name)}" for name in classes),
    ]
    shifted = any("probe_recall" in row.scores for row in rows)
    header += ["Shift probe"] * shifted + ["Parameters", "MFLOP", "Training time", "Images/s"]
    lines = [
        [f"`{row.name}`", row.seeds, len(row.runs)]
        + [
            _format_fraction(row.scores.get(name))
            for name in ("accuracy", "macro_f1", *(f"recall {name}" for name in classes))
        ]
        + [_format_fraction(row.scores.get("probe_recall"))] * shifted
        + ["-" if row.parameters is None else f"{row.parameters:,}"]
        + ["-" if row.flops is None else summary.format_mega(row.flops)]
        + [
            _format_spread(row.scores.get("training_s"), format_duration),
            _format_spread(row.scores.get("images_per_s"), "{:,.1f}".format),
        ]
        for row in rows
    ]
    parts = [
        "# Comparison",
        f"> **{notice}**" if notice else "",
        format_markdown_table(header, lines),
        "![curves](curves.png)",
    ]
    fields = list(rows[0].settings)
    if any(row.name.count("=") < len(fields) for row in rows):
        settings = [[f"`{row.name}`", *(f"`{row.settings[field]}`" for field in fields)] for row in rows]
        parts += [
            "## Where the settings differ",
            format_markdown_table(["Row", *(f"`{field}`" for field in fields)], settings),
        ]
    if tests:
        parts += [
            "## Significance",
            f"Each row is tested against the reference `{reference}`.",
            _format_tests(tests),
            *_TEST_NOTES,
        ]
    parts += [*_format_testing_folder(rows), "## Notes", *_NOTES, _PROBE_NOTE if shifted else ""]
    if left_out:
        parts += ["## Excluded", "\n".join(f"- {line}" for line in left_out)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _format_tests(tests: Tests) -> str:
    header = ["Row", "Seeds", "Only reference right", "Only this row right", "McNemar p", "Combined", "By patient"]
    lines = []
    for name, result in tests.items():
        if isinstance(result, str):
            lines.append([f"`{name}`", "not tested", "", "", "", "", result])
            continue
        ours, theirs = ([pair[i] for pair in result.counts] for i in (0, 1))
        lines.append(
            [
                f"`{name}`",
                str(len(result.seeds)),
                _format_spread(Spread.from_values(ours), _format_count),
                _format_spread(Spread.from_values(theirs), _format_count),
                _format_p_value(float(np.median(result.p_values))) + _format_p_range(result.p_values),
                _format_p_value(result.combined),
                f"{_format_p_value(result.by_group)} ({result.groups} groups)",
            ]
        )
    return format_markdown_table(header, lines)


def _format_testing_folder(rows: Sequence[ComparisonRow]) -> list[str]:
    tested = [row for row in rows if "testing_clean_n" in row.scores]
    if not tested:
        return []
    header = ["Row", "Clean images", "Accuracy", "Leaked images", "Accuracy"]
    lines = [
        [f"`{row.name}`"]
        + [
            cell
            for subset in ("clean", "leaked")
            for cell in (
                _format_spread(row.scores[f"testing_{subset}_n"], _format_count),
                _format_fraction(row.scores.get(f"testing_{subset}_accuracy")),
            )
        ]
        for row in tested
    ]
    note = (
        "Leaked images have a near-duplicate in training or validation, so a model that only memorised it gets them "
        "right."
    )
    return ["## Testing folder", format_markdown_table(header, lines), note]


def make_csv_rows(rows: Sequence[ComparisonRow], *, tests: Tests, reference: str) -> tuple[list[str], list[list[Any]]]:
    """Returns header and rows of the CSV: the numbers of the Markdown in full precision, one column each."""
    fields = list(rows[0].settings)
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    header = ["row", *fields, "seeds", "runs", "parameters", "flops_per_image"]
    header += [f"{name.replace(' ', '_')}_{part}" for name in names for part in ("mean", "min", "max")]
    header += ["reference", "mcnemar_p_median", "mcnemar_p_min", "mcnemar_p_max", "mcnemar_p_combined", "p_by_group"]
    lines = []
    for row in rows:
        line = [row.name, *(row.settings[field] for field in fields), row.seeds, len(row.runs), row.parameters]
        line.append(row.flops)
        for name in names:
            spread = row.scores.get(name)
            line += [None] * 3 if spread is None else [spread.mean, spread.low, spread.high]
        line.append(reference)
        result = tests.get(row.name)
        if isinstance(result, Significance):
            p = result.p_values
            line += [float(np.median(p)), min(p), max(p), result.combined, result.by_group]
        else:
            line += [None] * 5
        lines.append(line)
    return header, lines


def summarise_rows(rows: Sequence[ComparisonRow]) -> str:
    """Formats one line for each row: name, runs, accuracy, macro-F1, and the recall on a shift probe."""
    width = max(len(row.name) for row in rows)
    return "\n".join(
        f"{row.name:<{width}}  {len(row.runs)} {'run ' if len(row.runs) == 1 else 'runs'}  "
        f"accuracy {_format_fraction(row.scores.get('accuracy'))}  "
        f"macro-F1 {_format_fraction(row.scores.get('macro_f1'))}"
        + (f"  shift probe {_format_fraction(row.scores['probe_recall'])}" if "probe_recall" in row.scores else "")
        for row in rows
    )


def _format_spread(spread: Spread | None, form: Any) -> str:
    if spread is None:
        return "-"
    if form(spread.low) == form(spread.high):
        return form(spread.mean)
    return f"{form(spread.mean)} ({form(spread.low)} to {form(spread.high)})"


def _format_fraction(spread: Spread | None) -> str:
    return _format_spread(spread, "{:.3f}".format)


def _format_count(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _format_p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _format_p_range(values: Sequence[float]) -> str:
    return f" ({_format_p_value(min(values))} to {_format_p_value(max(values))})" if len(values) > 1 else ""


def _format_class_name(name: str) -> str:
    return name.replace("_", " ")
