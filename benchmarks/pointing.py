"""Measures whether heat maps point at the lesion, on phantoms, where the position of the lesion is known.

    python -m bt_jax.main --config=configs/effnet.py:demo --workdir=runs/phantoms --config.preprocess.size=240 \\
        '--config.data.phantoms_per_class=(160,40)' --config.model.dropout=0.5 --config.stages.head_epochs=4.0 \\
        --config.stages.epochs=4.0 --config.stages.lowest_segment=block_10 --config.train.cached_segment= \\
        --config.stages.learning_rate=5e-4 --config.stages.final_learning_rate=2e-4
    python benchmarks/pointing.py --model=runs/phantoms --methods=gradcam,layercam --json=benchmarks/pointing.json

The model must have been trained on phantoms, with larger images than the demo, whose Grad-CAM has only 5x5 cells. The
script draws other phantoms (`--seed`), each with a lesion, and explains their true class. It counts those that the
model classifies correctly, and ignores heat outside the head. A hit has its hottest pixel in the lesion. A near hit has
it within a tenth of the head's height of the lesion. Chance is the hit rate of a random point on the head.
`share_inside` is the fraction of the heat in the lesion, and `area` the lesion as a fraction of the head.
`after_randomising` is the rank correlation with the maps of the same network with random weights in its head, or in all
segments. It is near 0 if a map shows what was learned, and near 1 if it shows the image alone
(https://arxiv.org/abs/1810.03292).
"""

import argparse
import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np

from bt_jax.common import cli, files
from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.letterbox import Letterbox
from bt_jax.data.phantoms import phantom
from bt_jax.inference import attribution, heat_map, jax_model
from bt_jax.inference.trained_model import TrainedModel

NEAR = 0.1  # of the head's height


@dataclasses.dataclass(frozen=True)
class Case:
    """A phantom that the model classifies correctly, with masks of lesion and head on the image's own pixels."""

    square: np.ndarray
    placement: Letterbox
    label: int
    lesion: np.ndarray
    head: np.ndarray


def draw_cases(model: TrainedModel, *, each: int, seed: int) -> tuple[list[Case], int]:
    """Draws `each` patients of every tumour; returns the correctly classified phantoms, and how many were drawn."""
    found = []
    for label, name in enumerate(BRAIN_TUMOR_CLASSES):
        if name == "no_tumor":
            continue
        for patient in range(each):
            one = phantom.render(patient * phantom.SLICES_PER_PATIENT, label=name, seed=seed)
            square, placement = model.preprocessing.letterbox(one.image)
            head = placement.map_to_image(square > 0) > 0.5
            if one.lesion.any():
                found.append(Case(square, placement, label, one.lesion, head | one.lesion))
    predicted = model.predict_probabilities(np.stack([case.square for case in found])).argmax(axis=1)
    return [case for case, label in zip(found, predicted, strict=True) if case.label == label], len(found)


def score(model: TrainedModel, cases: list[Case], method: str) -> dict[str, Any]:
    """Computes hits, shares and areas of a method."""
    images, labels = np.stack([case.square for case in cases]), np.array([case.label for case in cases])
    explained = attribution.explain(model, images, classes=labels, method=method)
    hits, near, chance, shares, areas = [], [], [], [], []
    for case, heat in zip(cases, explained.heat, strict=True):
        on_image = case.placement.map_to_image(heat) * case.head
        rows = np.flatnonzero(case.head.any(axis=1))
        tolerance = NEAR * (rows[-1] - rows[0] + 1)
        hits.append(heat_map.is_hit(on_image, case.lesion))
        near.append(heat_map.is_hit(on_image, case.lesion, tolerance=tolerance))
        chance.append(_measure_near_share(case.lesion, case.head, tolerance))
        shares.append(heat_map.compute_share_inside(on_image, case.lesion))
        areas.append(case.lesion.sum() / case.head.sum())
    return {
        "used": explained.method,
        "hits": float(np.mean(hits)),
        "chance": float(np.mean(areas)),
        "near_hits": float(np.mean(near)),
        "near_chance": float(np.mean(chance)),
        "share_inside": float(np.mean(shares)),
        "area": float(np.mean(areas)),
        "after_randomising": _correlate_with_random_weights(model, images, labels, method, explained.heat),
    }


def _measure_near_share(lesion: np.ndarray, head: np.ndarray, tolerance: float) -> float:
    """Returns the fraction of the head's pixels within a tolerance of the lesion."""
    points, places = np.argwhere(head)[::7], np.argwhere(lesion)[::3]
    distances = np.sqrt(((points[:, None] - places[None]) ** 2).sum(-1)).min(axis=1)
    return float((distances <= tolerance).mean())


def _correlate_with_random_weights(
    model: TrainedModel, images: np.ndarray, labels: np.ndarray, method: str, heat: np.ndarray
) -> dict[str, float]:
    """Returns the rank correlation with the maps of networks with random weights: in the head, and in all segments."""
    (member,) = model.networks
    _, random, _ = model.description.create_network(seed=99)
    last = member.network.segment_names[-1]
    found = {}
    for what, params in {"head": {**member.params, last: random[last]}, "all": random}.items():
        other = dataclasses.replace(model, networks=(dataclasses.replace(member, params=params),))
        changed = attribution.explain(other, images, classes=labels, method=method).heat
        alike = [_compute_rank_correlation(one, another) for one, another in zip(heat, changed, strict=True)]
        found[what] = float(np.mean([value for value in alike if np.isfinite(value)]))
    return found


def _compute_rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Computes Spearman's correlation over every fourth pixel in both directions; NaN if a map is constant."""
    flat = [heat[::4, ::4].ravel() for heat in (one, other)]
    if any(np.ptp(values) == 0 for values in flat):
        return float("nan")
    ranks = [np.unique(values, return_inverse=True)[1] for values in flat]
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    """Draws phantoms, explains and scores them, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="workdir of a run on phantoms")
    parser.add_argument("--json", type=pathlib.Path, required=True)
    parser.add_argument("--each", type=int, default=40, help="number of patients of each tumour")
    parser.add_argument("--seed", type=int, default=1234, help="seed of the phantoms; must differ from that of the run")
    parser.add_argument("--methods", default=",".join(heat_map.METHODS))
    arguments = parser.parse_args()
    cli.prepare_to_compute()
    model = jax_model.load(arguments.model)
    if not model.description.synthetic:
        sys.exit("error: --model must be the workdir of a run on phantoms: only their lesions have a known position")
    cases, drawn = draw_cases(model, each=arguments.each, seed=arguments.seed)
    result: dict[str, Any] = {"model": model.description.name, "size": model.preprocessing.size, "drawn": drawn}
    result |= {"right": len(cases), "methods": {}}
    for method in arguments.methods.split(","):
        result["methods"][method] = score(model, cases, method)
        print(method, result["methods"][method])
    files.write_json(arguments.json, result)


if __name__ == "__main__":
    main()
