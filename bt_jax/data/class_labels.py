"""Class names: order, spelling, and aliases of folder names."""

import re
import unicodedata
from collections.abc import Iterable

# The four classes of the Kaggle set, in label order.
BRAIN_TUMOR_CLASSES = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")

# The notice on every report and figure about phantoms, or about a model trained on them.
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


def _clean(folder: str) -> str:
    """Returns a name without spaces around it and with composed accents, which macOS writes as two characters."""
    return unicodedata.normalize("NFC", folder).strip()


def canonicalise(folder: str) -> str:
    """Returns the class of a folder name, `glioma_tumor` for `Glioma` or `glioma-tumor`; others are kept."""
    folder = _clean(folder)
    key = re.sub(r"[\s_-]+", "", folder.lower()).replace("tumour", "tumor")
    for name in BRAIN_TUMOR_CLASSES:
        if key == name.replace("_", ""):
            return name
    return _ALIASES.get(key, folder)


def map_folders_to_classes(folders: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Returns the class names of a set of class folders in label order, and the class number of each folder.

    If all folders belong to the four brain tumour classes and at least one is a tumour, the class names are those of
    the four that are present, in their order. Otherwise the class names are the folder names in alphabetical order. So
    common words among the aliases (`none`, `normal`, `no`) are recognised only next to tumour classes.
    """
    folders = sorted(set(folders))
    names = {canonicalise(folder) for folder in folders}
    if names <= set(BRAIN_TUMOR_CLASSES) and names != {"no_tumor"}:
        present = tuple(name for name in BRAIN_TUMOR_CLASSES if name in names)
        return present, {folder: present.index(canonicalise(folder)) for folder in folders}
    own = tuple(sorted(set(map(_clean, folders))))
    return own, {folder: own.index(_clean(folder)) for folder in folders}
