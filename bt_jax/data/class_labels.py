"""Class names: their order, their spelling, and the folder names that mean the same."""

import re
from collections.abc import Iterable

# The four classes of the Kaggle set, in the order used everywhere.
BRAIN_TUMOR_CLASSES = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")

# What every report and picture says that comes from phantoms or from a model trained on them.
SYNTHETIC_NOTICE = "SYNTHETIC PHANTOMS: drawn by a program, not medical images"

_ALIASES = {
    "glioma": "glioma_tumor",
    "meningioma": "meningioma_tumor",
    "notumor": "no_tumor",
    "healthy": "no_tumor",
    "normal": "no_tumor",
    "none": "no_tumor",
    "no": "no_tumor",
    "pituitary": "pituitary_tumor",
}


def canonicalise(folder: str) -> str:
    """The class that a folder name stands for: `Glioma`, `glioma-tumor` and `glioma_tumor` are one; others stay."""
    key = re.sub(r"[\s_-]+", "", folder.lower())
    for name in BRAIN_TUMOR_CLASSES:
        if key == name.replace("_", ""):
            return name
    return _ALIASES.get(key, folder)


def map_folders_to_classes(folders: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The class names of a set of class folders in their fixed order, and the number of each folder's class.

    The four of the brain tumour set stand in their own order whenever all folders belong to it and one is a tumour,
    also where some of them are absent; any other set is in alphabetical order, under its own names. So everyday words
    among the aliases (`none`, `normal`, `no`) count only beside the tumours.
    """
    folders = sorted(set(folders))
    names = {canonicalise(folder) for folder in folders}
    if names <= set(BRAIN_TUMOR_CLASSES) and names != {"no_tumor"}:
        return BRAIN_TUMOR_CLASSES, {folder: BRAIN_TUMOR_CLASSES.index(canonicalise(folder)) for folder in folders}
    return tuple(folders), {folder: i for i, folder in enumerate(folders)}
