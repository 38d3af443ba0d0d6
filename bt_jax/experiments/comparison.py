"""Compares runs: groups them by configuration, and tests whether the groups differ significantly."""

import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.common.spread import Spread
from bt_jax.data import shift_probe
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.experiments import finished_runs, grid, tables
from bt_jax.experiments.finished_runs import FinishedRun, ValidationPrediction
from bt_jax.experiments.tables import ComparisonRow, Significance
from bt_jax.inference.description import ModelDescription
from bt_jax.metrics import significance
from bt_jax.models import summary
from bt_jax.reports import training_curves
from bt_jax.workdir import checkpoint

# Up to this number, a row's name has all differing fields; beyond it, only those that distinguish the rows.
_NAMING_FIELDS = 3


def write_comparison(
    directories: Iterable[pathlib.Path],
    out: pathlib.Path,
    *,
    reference: str = "",
    say: Callable[[str], None] = print,
) -> None:
    """Writes `comparison.md`, `comparison.csv` and `curves.png`, each atomically.

    Args:
      directories: workdirs of runs or of cross-validations, or folders that contain some.
      out: folder for the files; it is created if missing.
      reference: name of the row that the others are tested against; empty: the first row.
      say: called with one line for each excluded run and each file.

    Raises:
      UsageError: no run is finished, the reference does not exist, or a file cannot be read.
    """
    runs, left_out = finished_runs.find_runs(directories)
    for line in left_out:
        say(f"excluded: {line}")
    if not runs:
        raise UsageError("none of these runs is finished and validated: finish at least one of them first")
    rows = make_rows(runs)
    names = [row.name for row in rows]
    if reference and reference not in names:
        raise UsageError(f"--reference is {reference!r}, which is not a row: use one of {', '.join(map(repr, names))}")
    base = rows[names.index(reference) if reference else 0]
    tests = {row.name: compare_with_reference(base.runs, row.runs) for row in rows if row is not base}
    for name, result in tests.items():
        if isinstance(result, str):
            say(f"not tested: {name} against {base.name}: {result}")
    notice = SYNTHETIC_NOTICE if any(run.synthetic for run in runs) else None
    training_curves.draw_run_comparison(
        out / "curves.png",
        curves={row.name: [run.curves for run in row.runs] for row in rows},
        title="Validation scores by epoch: mean and range of each row's runs",
        notice=notice,
    )
    header, lines = tables.make_csv_rows(rows, tests=tests, reference=base.name)
    files.write_csv(out / "comparison.csv", header, lines)
    text = tables.format_markdown(rows, tests=tests, reference=base.name, left_out=left_out, notice=notice)
    files.write_text(out / "comparison.md", text)
    say(tables.summarise_rows(rows))
    for name in ("comparison.md", "comparison.csv", "curves.png"):
        say(f"written: {out / name}")


def make_rows(runs: Sequence[FinishedRun]) -> list[ComparisonRow]:
    """Makes a row for each configuration, in the order of its first run.

    The runs of a row differ only in seed and fold. Every fold of every seed has the same weight.
    """
    grouped: dict[str, list[FinishedRun]] = {}
    for run in runs:
        grouped.setdefault(json.dumps(run.config, sort_keys=True), []).append(run)
    members = list(grouped.values())
    settings = find_differing_fields([group[0].config for group in members])
    names = name_rows(settings, default=str(members[0][0].config["model.name"]))
    rows = []
    for name, own_settings, group in zip(names, settings, members, strict=True):
        parameters, flops = _measure_model(group[0].folder)
        rows.append(
            ComparisonRow(
                name=name,
                settings=own_settings,
                runs=tuple(group),
                scores=_summarise_runs(group),
                parameters=parameters,
                flops=flops,
            )
        )
    return rows


def find_differing_fields(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for each configuration, the fields that differ between configurations; a missing field is None."""
    fields = sorted({field for config in configs for field in config})
    different = [f for f in fields if len({json.dumps(config.get(f), sort_keys=True) for config in configs}) > 1]
    return [{field: config.get(field) for field in different} for config in configs]


def name_rows(settings: Sequence[Mapping[str, Any]], *, default: str) -> list[str]:
    """Makes readable names such as `hidden=64 epochs=5`.

    A name has all differing fields if they are few. Otherwise it has the model, and as many fields as are needed to
    distinguish the rows. They are chosen greedily: at each step the field that distinguishes the most rows.

    Args:
      settings: from `find_differing_fields`.
      default: the name of a single row.
    """
    fields = list(settings[0])
    if not fields:
        return [default] * len(settings)
    if len(fields) > _NAMING_FIELDS:
        chosen = ["model.name"] if "model.name" in fields else []
        while _count_distinct(settings, chosen) < _count_distinct(settings, fields):
            rest = [field for field in fields if field not in chosen]
            chosen.append(max(rest, key=lambda field: _count_distinct(settings, [*chosen, field])))
        fields = chosen
    fields = sorted(fields, key=lambda field: (field != "model.name", field == "data"))
    last = [field.rpartition(".")[2] for field in fields]
    # The last part of a field, such as `epochs`, unless two fields share it.
    short = {field: field if last.count(name) > 1 else name for field, name in zip(fields, last, strict=True)}
    names = [" ".join(f"{short[field]}={grid.format_value(row[field])}" for field in fields) for row in settings]
    # An empty tuple and a missing field look the same.
    return [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]


def _count_distinct(settings: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> int:
    return len({json.dumps([row[field] for field in fields]) for row in settings})


def _summarise_runs(runs: Sequence[FinishedRun]) -> dict[str, Spread]:
    """Computes mean and range over the runs of each score; a score that no run has is absent."""
    values: dict[str, list[float | None]] = {}

    def add(name: str, value: float | None) -> None:
        values.setdefault(name, []).append(value)

    for run in runs:
        validation = run.scores["validation"]
        add("accuracy", validation["accuracy"])
        add("macro_f1", validation["macro_f1"])
        for name, scores in validation["per_class"].items():
            add(f"recall {name}", scores["recall"])
        if shift_probe.SPLIT in run.scores:
            scores = run.scores[shift_probe.SPLIT]
            clean = scores["subsets"]["clean"]
            # All images are of one class, so the accuracy is its recall.
            add("probe_recall", (clean if clean["n"] else scores)["accuracy"])
        add("training_s", run.seconds)
        add(
            "images_per_s",
            _compute_median([row["train/images_per_s"] for row in run.curves if "train/images_per_s" in row]),
        )
        for subset in ("clean", "leaked"):
            if "testing" in run.scores:
                scores = run.scores["testing"]["subsets"][subset]
                add(f"testing_{subset}_n", scores["n"])
                add(f"testing_{subset}_accuracy", scores["accuracy"])
    known = {name: [value for value in found if value is not None] for name, found in values.items()}
    return {name: Spread.from_values(found) for name, found in known.items() if found}


def _compute_median(values: Iterable[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def compare_with_reference(reference: Sequence[FinishedRun], other: Sequence[FinishedRun]) -> Significance | str:
    """Tests a row against the reference, pairing runs of the same seed.

    The folds of a seed are pooled: each image is predicted once, by the run that did not train on it.

    Returns:
      The result, or one line that says why the rows cannot be compared.
    """
    seeds = sorted({run.seed for run in reference} & {run.seed for run in other})
    if not seeds:
        return "the rows have no seed in common"
    counts, differences, groups = [], [], []
    for seed in seeds:
        pairs = [_collect_predictions(run for run in runs if run.seed == seed) for runs in (reference, other)]
        identities = [{path: answer[:2] for path, answer in answers.items()} for answers in pairs]
        if identities[0] != identities[1]:
            return f"the validation images of seed {seed} differ"
        first, second = pairs
        ours = sum(first[path].right and not second[path].right for path in first)
        theirs = sum(second[path].right and not first[path].right for path in first)
        counts.append((ours, theirs))
        for path, answer in first.items():
            differences.append(second[path].right - answer.right)
            # Phantoms of the same name, drawn with different seeds, are not of one patient.
            groups.append((answer.group or path, seed if reference[0].synthetic else None))
    p_values = [significance.mcnemar(*pair) for pair in counts]
    return Significance(
        seeds=tuple(seeds),
        counts=tuple(counts),
        p_values=tuple(p_values),
        combined=significance.combine_p_values(p_values),
        by_group=significance.sign_flip_test(differences, groups),
        groups=len(set(groups)),
    )


def _collect_predictions(runs: Iterable[FinishedRun]) -> dict[str, ValidationPrediction]:
    return {path: answer for run in runs for path, answer in run.read_predictions().items()}


def _measure_model(folder: pathlib.Path) -> tuple[int | None, int | None]:
    """Counts the parameters, and the operations of one image's forward pass; None if the run has no checkpoint."""
    try:
        _, metadata = checkpoint.read_best_metadata(folder)
    except UsageError:
        return None, None
    return _measure_described_model(json.dumps(metadata["model"]))


@functools.cache
def _measure_described_model(description: str) -> tuple[int, int]:
    model = ModelDescription.from_dict(json.loads(description))
    return summary.count_total(summary.summarise(*model.create_network(), size=model.preprocessing["size"]))
