"""What the path of a folder says: whether its name is that of a split or class, and which folders are above it."""

import re

from bt_jax.data import class_labels
from bt_jax.data.records import TESTING, TRAINING

VALIDATION = "Validation"
_SPLITS = {
    "training": TRAINING, "train": TRAINING, "testing": TESTING, "test": TESTING, "validation": VALIDATION,
    "valid": VALIDATION, "validate": VALIDATION, "val": VALIDATION,
}  # fmt: skip
# What people add to the name of a split, as in `train_set` and `Testing Data`.
_ENDINGS = re.compile(r"(dataset|data|set|images|folder)$")
# Folders for images without a class, which lie beside class folders.
_UNLABELLED = frozenset({"pred", "preds", "predict", "prediction", "predictions", "nolabel", "unlabeled", "unlabelled"})


def find_split(name: str) -> str | None:
    """Returns the split that a folder's name stands for, `Training` for `train`, `TRAIN_SET` or `Training Data`."""
    key = _simplify(name)
    return _SPLITS.get(key) or _SPLITS.get(_ENDINGS.sub("", key))


def is_beside_classes(folder: str) -> bool:
    """Returns whether the name of a folder says that it is no class, but lies beside some."""
    return find_split(get_name(folder)) is not None or _simplify(get_name(folder)) in _UNLABELLED


def _simplify(name: str) -> str:
    """Returns a name in lower case, without spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name.lower())


def get_class(folder: str) -> str:
    """Returns the class that the name of a folder stands for."""
    return class_labels.canonicalise(get_name(folder))


def is_archive(path: str) -> bool:
    """Returns whether a file is an archive, by its name."""
    return path.lower().endswith((".zip", ".tar", ".tgz", ".tar.gz", ".rar", ".7z"))


def get_parent(path: str) -> str:
    """Returns the folder that a path is in, or an empty path at the top."""
    return path.rpartition("/")[0]


def get_name(path: str) -> str:
    """Returns the last part of a path."""
    return path.rpartition("/")[2]


def get_depth(folder: str) -> int:
    """Returns the number of parts of a path."""
    return folder.count("/") + bool(folder)


def list_parents(folder: str) -> list[str]:
    """Lists a folder and all above it, up to the top."""
    found = [folder]
    while folder:
        folder = get_parent(folder)
        found.append(folder)
    return found


def is_below(path: str, folder: str) -> bool:
    """Returns whether a path is a folder or inside of it."""
    return not folder or path == folder or path.startswith(f"{folder}/")
