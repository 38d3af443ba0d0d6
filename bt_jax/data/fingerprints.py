"""Identification of images: a hash of the decoded pixels, and small normalised copies."""

import hashlib

import numpy as np
from PIL import Image

from bt_jax.data.preprocess import Preprocessing

THUMBNAIL_SIZE = 64
_FULL_FRAME = Preprocessing(form="stretch", size=THUMBNAIL_SIZE)
_HEAD = Preprocessing(form="head", size=THUMBNAIL_SIZE)


def fingerprint(image: np.ndarray) -> str:
    """Computes 32 hexadecimal digits that are equal for decoded images [H, W] with equal pixels.

    Files with equal pixels may differ: of 251 pixel-identical pairs across the Kaggle set's splits, 88 are byte copies.
    """
    digest = hashlib.sha256(f"{image.shape[0]}x{image.shape[1]} {image.dtype.name} ".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:32]


def make_thumbnails(image: np.ndarray) -> np.ndarray:
    """Makes two small copies of a decoded image [H, W], of the whole frame and of the head alone: [2, 64, 64] uint8."""
    frame = image if image.dtype == np.uint8 else (image / max(int(image.max()), 1) * 255).astype(np.uint8)
    if max(frame.shape) > 4 * THUMBNAIL_SIZE:
        scale = 4 * THUMBNAIL_SIZE / max(frame.shape)
        size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
        frame = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    return np.stack([_FULL_FRAME(frame), _HEAD(frame)])
