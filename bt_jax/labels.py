"""Class names: their order, their spelling, and the folder names that mean the same."""

import re
from collections.abc import Iterable

# The four classes of the Kaggle set, in the order used everywhere.
BRAIN_TUMOR_CLASSES = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")

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


def canonical(folder: str) -> str:
    """The class that a folder name stands for: `Glioma`, `glioma-tumor` and `glioma_tumor` are one; others stay."""
    key = re.sub(r"[\s_-]+", "", folder.lower())
    for name in BRAIN_TUMOR_CLASSES:
        if key == name.replace("_", ""):
            return name
    return _ALIASES.get(key, folder)


def class_names(folders: Iterable[str]) -> tuple[str, ...]:
    """Class names in their fixed order for a set of class folders.

    The four of the brain tumour set stand in their own order whenever all folders belong to it, also where some of
    them are absent (a folder without `no_tumor` still has four classes); any other set is in alphabetical order.
    The aliases that are everyday words (`none`, `normal`, `no`) count only beside the three tumours.
    """
    folders = list(folders)
    names = {canonical(folder) for folder in folders}
    if any(name != "no_tumor" and name in BRAIN_TUMOR_CLASSES for name in names) and names <= set(BRAIN_TUMOR_CLASSES):
        return BRAIN_TUMOR_CLASSES
    return tuple(sorted(set(folders)))
