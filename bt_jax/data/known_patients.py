"""The patients of images that are to be scored, where they are known."""

from collections.abc import Mapping

from bt_jax.data import manifest, splits
from bt_jax.data.dataset import Dataset


def groups_of(dataset: Dataset, table: Mapping[str, str]) -> tuple[list[str], str] | None:
    """A group for every image, and in words where the groups come from; None where no image's patient is known.

    Images without a known patient are grouped with those that look nearly the same.

    Args:
      dataset: the images.
      table: path -> patient, of the data's own `groups.csv`; may be empty or lack images.
    """
    known = manifest.groups()
    if not any(path in table for path in dataset.paths) and not any(print_ in known for print_ in dataset.fingerprints):
        return None
    return splits.group_images(
        paths=dataset.paths, fingerprints=dataset.fingerprints, thumbnails=dataset.thumbnails, table=table
    )
