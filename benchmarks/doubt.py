"""Measures how many images a model flags as out-of-distribution (OOD): brain MRI slices, and other pictures.

    python benchmarks/doubt.py --model=runs/first --data=DIR --photographs=DIR --json=benchmarks/doubt.json

`--data` is the folder that the model was trained on; the paths in its `split.csv` are relative to it. Photographs are
the image files in the given folders, and those of scikit-learn and matplotlib. Nothing is fitted here.
"""

import argparse
import collections
import csv
import importlib.util
import pathlib
from typing import Any

import numpy as np

from bt_jax.common import cli, files
from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.io.decode import IMAGE_SUFFIXES, ImageError, decode_image
from bt_jax.data.phantoms import ood_images, phantom
from bt_jax.inference import jax_model
from bt_jax.inference.trained_model import TrainedModel

_PACKAGES = {"sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data"}


def read_photographs(folders: list[pathlib.Path]) -> dict[str, np.ndarray]:
    """Reads the image files of folders, and of packages that contain some, by name."""
    for package, inside in _PACKAGES.items():
        spec = importlib.util.find_spec(package)
        folders = (
            folders + [pathlib.Path(place) / inside for place in (spec.submodule_search_locations or ())]
            if spec
            else folders
        )
    found = {}
    for path in sorted(
        path for folder in folders for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
    ):
        try:
            found[path.name] = decode_image(path.read_bytes(), name=path.name)
        except ImageError as error:
            print(f"skipped: {error}")
    return found


def score_images(model: TrainedModel, images: list[np.ndarray]) -> tuple[dict[str, Any], np.ndarray]:
    """Returns how many of the preprocessed images are flagged, and their OOD scores (`doubt`)."""
    scores = model.predict(np.stack(images)).ood_scores
    assert scores is not None, "the model has no doubt.npz: train it again"
    quantiles = np.percentile(scores, (5, 50, 95)).round(3).tolist()
    sure = model.predict_probabilities(np.stack(images)).max(axis=1).mean()
    doubted = int((scores > 1).sum())
    return {
        "images": len(images),
        "doubted": doubted,
        "rate": round(doubted / len(images), 4),
        "score_5_50_95": quantiles,
        "mean_confidence": round(float(sure), 3),
    }, scores


def main() -> None:
    """Reads and draws images, scores them, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--photographs", type=pathlib.Path, action="append", default=[])
    parser.add_argument("--each", type=int, default=20, help="drawn pictures of each kind")
    parser.add_argument("--json", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    cli.prepare_to_compute()
    model = jax_model.load(arguments.model)
    result: dict[str, Any] = {"model": model.description.name, "threshold_on": model.ood_models[0].fitted_on}
    by_role = collections.defaultdict(list)
    with (arguments.model / "split.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["role"] != "training":
                content = (arguments.data / row["path"]).read_bytes()
                by_role[row["role"]].append(model.preprocessing(decode_image(content, name=row["path"])))
    for role, images in by_role.items():
        result[role], _ = score_images(model, images)
    named = read_photographs(arguments.photographs)
    result["photographs"], scores = score_images(model, [model.preprocessing(image) for image in named.values()])
    result["photographs"]["passed"] = [name for name, score in zip(named, scores, strict=True) if score <= 1]
    drawn = ood_images.draw(each=arguments.each, seed=1)
    for kind in ood_images.KINDS:
        of_kind = [model.preprocessing(picture.image) for picture in drawn if picture.kind == kind]
        result[f"drawn: {kind}"], _ = score_images(model, of_kind)
    result["drawn"], _ = score_images(model, [model.preprocessing(picture.image) for picture in drawn])
    heads = [
        phantom.render(index, label=name, seed=1).image for name in BRAIN_TUMOR_CLASSES for index in range(0, 80, 4)
    ]
    result["phantoms of heads"], _ = score_images(model, [model.preprocessing(image) for image in heads])
    for name, scores_of in result.items():
        print(f"{name}: {scores_of}")
    files.write_json(arguments.json, result)


if __name__ == "__main__":
    main()
