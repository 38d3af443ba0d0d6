"""What the name of a file or folder says: whether the operating system made it, and whether it can be an image."""

import pathlib
from collections.abc import Sequence

# Folders and files, in lower case, that operating systems, archivers and network drives add. Nobody put them there.
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found"}
)
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})

# Suffixes, in lower case, of files that stand beside images. Any other suffix may be that of an image.
_OTHER_SUFFIXES = frozenset(
    {
        ".7z", ".avi", ".csv", ".db", ".doc", ".docx", ".gz", ".h5", ".hdf5", ".htm", ".html", ".ini", ".ipynb",
        ".json", ".jsonl", ".keras", ".log", ".m", ".mat", ".md", ".mov", ".mp4", ".npy", ".npz", ".onnx", ".pdf",
        ".pickle", ".pkl", ".pt", ".pth", ".py", ".rar", ".rst", ".rtf", ".sh", ".svg", ".tar", ".tfrecord", ".toml",
        ".tsv", ".txt", ".wav", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip",
    }
)  # fmt: skip
_COMPRESSED_SCANS = (".nii.gz", ".dcm.gz", ".dicom.gz", ".ima.gz")


def is_hidden(parts: Sequence[str]) -> bool:
    """Returns whether a path, given by its parts, is hidden or made by the operating system."""
    return (
        any(part.startswith(".") or part.lower() in _SYSTEM_FOLDERS for part in parts)
        or parts[-1].lower() in _SYSTEM_FILES
    )


def can_be_image(name: str) -> bool:
    """Returns whether a file may be an image by its name; `.nii.gz` and `.dcm.gz` may."""
    suffix = pathlib.PurePosixPath(name).suffix.lower()
    return suffix not in _OTHER_SUFFIXES or is_compressed_scan(name)


def is_compressed_scan(name: str) -> bool:
    """Returns whether a file is a volume or DICOM file packed by gzip, by its name."""
    return name.lower().endswith(_COMPRESSED_SCANS)
