"""A comparison of runs as Markdown, as CSV, and in a few lines for the terminal."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bt_jax.experiments.finished_runs import FinishedRun
from bt_jax.models import summary


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and range of a number over the runs of a row."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(float(np.mean(values)), float(min(values)), float(max(values)))


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """Runs that differ in nothing but seed and fold.

    Attributes:
      name: from the settings that differ.
      settings: the fields in which the rows of this comparison differ.
      runs: at least one.
      scores: `accuracy`, `macro_f1`, `recall CLASS`, `probe_recall`, `training_s`, `images_per_s`, and of the Testing
        folder `testing_clean_n`, `testing_clean_accuracy` and the same for `leaked`; what no run has is absent.
      parameters: of the model.
      flops: of a forward of one image, see `summary.Layer`.
    """

    name: str
    settings: Mapping[str, Any]
    runs: tuple[FinishedRun, ...]
    scores: Mapping[str, Spread]
    parameters: int | None
    flops: int | None

    @property
    def seeds(self) -> int:
        """Different seeds among the runs."""
        return len({run.seed for run in self.runs})

    @property
    def classes(self) -> list[str]:
        """In the order of the metrics."""
        return list(self.runs[0].scores["validation"]["per_class"])


@dataclasses.dataclass(frozen=True)
class Significance:
    """Of the tests of a row against the reference, on the same images.

    Attributes:
      seeds: those that both have.
      counts: for each seed the images that the reference alone, and that this row alone, got right.
      p_values: of McNemar's exact test, for each seed.
      combined: one p of these.
      by_group: p of the randomisation test over groups of images such as patients, all seeds together.
      groups: their number.
    """

    seeds: tuple[int, ...]
    counts: tuple[tuple[int, int], ...]
    p_values: tuple[float, ...]
    combined: float
    by_group: float
    groups: int


Tests = Mapping[str, Significance | str]

_NOTES = (
    "A row is all runs of the same settings; where it has several runs (seeds, or folds of a cross-validation, which "
    "count alike), a cell is the mean, and in brackets the lowest and the highest.",
    "Scores are of the validation images, on the checkpoint with the lowest validation loss. The same images chose it, "
    "in all rows alike.",
    "MFLOP: of a forward of one image, two operations for each multiplication and addition of the convolutions and "
    "matrix products, counted from the traced program in its plain form; the compiler's own count differs. "
    "Training time: all stages with their evaluations, checkpoints and waiting for the compiler, on the machine of the "
    "run; images/s: the median over the rows of the run's log, which covers training steps alone.",
)
_PROBE_NOTE = (
    "Shift probe: the recall on images of a class from another source, which were kept from training and validation "
    "(`config.data.probe`)."
)
_TEST_NOTES = (
    "McNemar's exact test compares two runs on the same validation images: of those that one of them alone got right, "
    "are more the reference's than would be by chance? Runs of the same seed are paired, their folds taken together. "
    "With several seeds there are as many tests, of which the table gives the median p and the range; *combined* is "
    "twice the median, at most 1, which is a valid p although the tests share their images (Vovk and Wang, 2020).",
    "That test takes images as independent, but slices of a patient are right or wrong together, which makes its p too "
    "small. *By patient* adds up each patient's (or other group's) differences over its images and all seeds, and "
    "draws their signs at random 9,999 times: believe this column first.",
    "Each p is for one comparison alone. Where many rows are tested, multiply by their number (Bonferroni) before "
    "calling one of them better.",
)


def format_markdown(
    rows: Sequence[ComparisonRow],
    *,
    tests: Tests,
    reference: str,
    left_out: Sequence[str] = (),
    notice: str | None = None,
) -> str:
    """The whole comparison, with what its numbers mean."""
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
            _format_spread(row.scores.get("training_s"), _duration),
            _format_spread(row.scores.get("images_per_s"), "{:,.1f}".format),
        ]
        for row in rows
    ]
    parts = ["# Comparison", f"> **{notice}**" if notice else "", _table(header, lines), "![curves](curves.png)"]
    fields = list(rows[0].settings)
    if any(row.name.count("=") < len(fields) for row in rows):
        settings = [[f"`{row.name}`", *(f"`{row.settings[field]}`" for field in fields)] for row in rows]
        parts += ["## Where the settings differ", _table(["Row", *(f"`{field}`" for field in fields)], settings)]
    if tests:
        parts += [
            "## More than luck?",
            f"Each row against the reference `{reference}`.",
            _format_tests(tests),
            *_TEST_NOTES,
        ]
    parts += [*_format_testing_folder(rows), "## How to read it", *_NOTES, _PROBE_NOTE if shifted else ""]
    if left_out:
        parts += ["## Left out", "\n".join(f"- {line}" for line in left_out)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _format_tests(tests: Tests) -> str:
    header = ["Row", "Seeds", "Only the reference right", "Only this row right", "McNemar p", "Combined", "By patient"]
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
                _format_spread(Spread.of(ours), _format_count),
                _format_spread(Spread.of(theirs), _format_count),
                _format_p_value(float(np.median(result.p_values))) + _format_p_range(result.p_values),
                _format_p_value(result.combined),
                f"{_format_p_value(result.by_group)} ({result.groups} groups)",
            ]
        )
    return _table(header, lines)


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
    note = "Leaked images have a twin in training or validation: a model that merely remembers gets them right."
    return ["## Testing folder", _table(header, lines), note]


def make_csv_rows(rows: Sequence[ComparisonRow], *, tests: Tests, reference: str) -> tuple[list[str], list[list[Any]]]:
    """Header and lines: what is in the Markdown, with full precision and a column for each number."""
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
    """A line for each row: name, runs, accuracy, macro-F1, and the recall on a shift probe."""
    width = max(len(row.name) for row in rows)
    return "\n".join(
        f"{row.name:<{width}}  {len(row.runs)} {'run ' if len(row.runs) == 1 else 'runs'}  "
        f"accuracy {_format_fraction(row.scores.get('accuracy'))}  "
        f"macro-F1 {_format_fraction(row.scores.get('macro_f1'))}"
        + (f"  shift probe {_format_fraction(row.scores['probe_recall'])}" if "probe_recall" in row.scores else "")
        for row in rows
    )


def _table(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in (header, *lines)]
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))


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


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _format_class_name(name: str) -> str:
    return name.replace("_", " ")
