"""The findings of an audit as `audit.json` and `duplicates.csv`, and as a few lines for the terminal."""

import collections
import itertools
import pathlib
from typing import Any

import numpy as np

from bt_jax.audit.findings import KINDS, Findings
from bt_jax.audit.inspection import CUES, ODDITIES
from bt_jax.audit.shortcuts import Shortcuts
from bt_jax.common import files
from bt_jax.data.dedup.near_duplicates import DUPLICATE_CORRELATION, DUPLICATE_DETAIL, UNALIGNED_CORRELATION

SCHEMA = 1
COLUMNS = ("path_a", "path_b", "kind", "similarity", "label_a", "label_b")
NOT_COVERED = (
    "Duplicates are found in eight orientations. In the upright orientation, most but not all copies with a crop of up "
    "to a tenth of a side or a rotation of up to ten degrees are found. Not covered: larger crops and rotations, crops "
    "and rotations of mirrored copies, inverted or strongly nonlinear grey scales, drawings over the picture, and "
    "different slices of one patient."
)


def write(folder: pathlib.Path, findings: Findings) -> None:
    """Writes `audit.json` and `duplicates.csv`."""
    files.write_json(folder / "audit.json", build_content(findings))
    paths = [record.path for record in findings.inspection.records]
    files.write_csv(
        folder / "duplicates.csv",
        COLUMNS,
        [
            (
                paths[pair.first],
                paths[pair.second],
                pair.kind,
                f"{pair.similarity:.4f}",
                findings.get_label(pair.first),
                findings.get_label(pair.second),
            )
            for pair in findings.pairs
        ],
    )


def build_content(findings: Findings) -> dict[str, Any]:
    """Returns the content of `audit.json` as nested dicts and lists."""
    inspection, source = findings.inspection, findings.source
    paths = [record.path for record in inspection.records]
    sizes = collections.Counter(findings.groups)
    return {
        "schema": SCHEMA,
        "source": source.description,
        "notice": source.notice,
        "warnings": list(source.warnings),
        "classes": list(source.class_names),
        "images": count_classes(findings),
        "unreadable": [{"path": record.path, "reason": reason} for record, reason in inspection.unreadable],
        "odd": {
            kind: {"meaning": ODDITIES[kind], "count": len(rows), "paths": [paths[row] for row in rows]}
            for kind, rows in findings.list_oddities().items()
        },
        "duplicates": {
            "across_splits": findings.count_pairs(across=True),
            "within_splits": findings.count_pairs(across=False),
            "thresholds": {
                "near_correlation": UNALIGNED_CORRELATION,
                "laid_correlation": DUPLICATE_CORRELATION,
                "laid_detail": DUPLICATE_DETAIL,
            },
            "not_covered": NOT_COVERED,
            "clusters": [[paths[row] for row in rows] for rows in findings.clusters],
        },
        "leaks": count_leaks(findings),
        "contradictions": [
            {
                "path_a": paths[pair.first],
                "path_b": paths[pair.second],
                "kind": pair.kind,
                "label_a": findings.get_label(pair.first),
                "label_b": findings.get_label(pair.second),
            }
            for pair in findings.contradictions
        ],
        "groups": {
            "origin": findings.grouping,
            "count": len(sizes),
            "largest": max(sizes.values(), default=0),
            "of_image": dict(zip(paths, findings.groups, strict=True)),
        },
        "shortcuts": _build_shortcuts(findings.shortcuts),
        "medians": compute_medians(findings),
    }


def count_classes(findings: Findings) -> dict[str, dict[str, int]]:
    """Counts the readable images by split and class."""
    counts = collections.Counter((record.split, record.label) for record in findings.inspection.records)
    return {
        split: {name: counts[split, label] for label, name in enumerate(findings.source.class_names)}
        for split in ("Training", "Testing")
        if any(counts[split, label] for label in range(len(findings.source.class_names)))
    }


def count_leaks(findings: Findings) -> dict[str, Any]:
    """Counts the Testing images with a duplicate in Training, or a shared patient or group, in total and by class."""
    testing = findings.list_rows("Testing")
    kinds = collections.Counter(findings.leak_kind.values())
    same_group = findings.same_group
    by_class = {}
    for name in findings.source.class_names:
        rows = [row for row in testing if findings.get_label(row) == name]
        with_twin = sum(row in findings.leak_kind for row in rows)
        shared = sum(findings.get_label(row) == name for row in same_group)
        by_class[name] = {"testing_images": len(rows), "with_twin": with_twin, "same_group": shared}
    return {
        "testing_images": len(testing),
        "with_twin": len(findings.leak_kind),
        "by_kind": {kind: kinds[kind] for kind in KINDS},
        "same_group": len(same_group),
        "clean": len(testing) - len(findings.leak_kind) - len(same_group),
        "by_class": by_class,
    }


def compute_medians(findings: Findings) -> list[dict[str, Any]]:
    """Computes medians of the cues for each split and class, and the most common size with its share of the images."""
    rows_of: dict[tuple[str, str], list[int]] = {}
    for row in range(len(findings.inspection.records)):
        rows_of.setdefault((findings.get_split(row), findings.get_label(row)), []).append(row)
    result = []
    for split, name in itertools.product(("Training", "Testing"), findings.source.class_names):
        if rows := rows_of.get((split, name)):
            cues = findings.inspection.cues[rows]
            values = [round(value, 3) for value in np.median(cues, axis=0).astype(float).tolist()]
            sizes = collections.Counter(tuple(size) for size in cues[:, :2].astype(int).tolist())
            (width, height), count = max(sizes.items(), key=lambda item: (item[1], item[0]))
            result.append(
                {"split": split, "class": name, "images": len(rows), **dict(zip(CUES, values, strict=True))}
                | {"common_size": f"{width}x{height}", "common_size_share": round(count / len(rows), 3)}
            )
    return result


def _build_shortcuts(found: Shortcuts | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"strongest": None, "why_not": found}
    return {
        "strongest": found.strongest,
        "images": found.images,
        "folds": found.folds,
        "chance": found.chance,
        "balanced_accuracy": {"all": found.by_all, **found.by_cue},
        "rules": [
            {
                "cue": rule.cue,
                "class": rule.class_name,
                "balanced_accuracy": rule.balanced_accuracy,
                "rule": rule.description,
            }
            for rule in found.rules
        ],
    }


def summarise(findings: Findings) -> list[str]:
    """Returns a few lines for the terminal."""
    inspection = findings.inspection
    leaked = count_leaks(findings)
    odd = sum(bool(kinds) for kinds in inspection.oddities)
    lines = [
        f"{len(inspection.records):,} images, {len(inspection.unreadable)} unreadable files, {odd} unusual files",
        f"duplicate pairs across splits: {_format_counts(findings.count_pairs(across=True))}",
        f"duplicate pairs within a split: {_format_counts(findings.count_pairs(across=False))}",
        f"contradictory labels: {len(findings.contradictions)} pairs",
        f"groups: {len(set(findings.groups)):,} ({findings.grouping})",
    ]
    if leaked["testing_images"]:
        lines.insert(
            1,
            f"Testing: {leaked['with_twin']} of {leaked['testing_images']} images have a duplicate in Training, "
            f"{leaked['same_group']} more share a patient or group with it, {leaked['clean']} are clean",
        )
    found = findings.shortcuts
    if isinstance(found, str):
        return [*lines, f"shortcut: not measured, because {found}"]
    return [
        *lines,
        f"shortcut: {found.strongest}; all cues together, {len(findings.source.class_names)} classes: "
        f"{found.by_all:.2f}, chance {found.chance:.2f}",
    ]


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
