import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from bt_jax.data import dataset, sources
from bt_jax.data.dataset import Dataset
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.sources import Source


def picture(number: int, *, height: int = 40, width: int = 48) -> np.ndarray:
    """A smooth grey image unlike those of other numbers: [H, W] uint8."""
    coarse = np.random.default_rng(number).integers(20, 236, (6, 6), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class Folder:
    """A data folder in the making; every image in it is another one."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.count = 0

    def add(self, folder: str, *, images: int = 2) -> "Folder":
        for _ in range(images):
            self.count += 1
            self.write(f"{folder}/image ({self.count}).png", picture(self.count))
        return self

    def write(self, name: str, content: bytes | np.ndarray | str) -> "Folder":
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            Image.fromarray(content).save(file)
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        return self

    def open(self) -> Source:
        return sources.open_path(self.path, field="config.data.dir")


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Folder:
    """Empty."""
    return Folder(tmp_path / "images")


@pytest.fixture
def kaggle(folder: Folder) -> Folder:
    """The four classes in Training, two of them in Testing."""
    for name in ("pituitary_tumor", "no_tumor", "glioma_tumor", "meningioma_tumor"):
        folder.add(f"Training/{name}")
    return folder.add("Testing/glioma_tumor").add("Testing/no_tumor", images=1)


@pytest.fixture(scope="session")
def real_directory() -> pathlib.Path:
    """The folder of the real images, for tests that are marked `real_data`."""
    return pathlib.Path(os.environ["BT_DATA"])


@pytest.fixture(scope="session")
def real_source(real_directory: pathlib.Path) -> Source:
    return sources.open_path(real_directory, field="$BT_DATA")


@pytest.fixture(scope="session")
def real_dataset(real_source: Source) -> Dataset:
    """The real images with what identifies them; the pixels themselves are small."""

    def warn(line: str) -> None:
        raise AssertionError(line)

    return dataset.load(real_source, preprocessing=Preprocessing(form="stretch", size=8), max_unreadable=0, warn=warn)
