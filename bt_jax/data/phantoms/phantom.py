"""Procedural phantoms that look like brain MRI slices, for demos and tests without medical data.

They have three planes and four classes, and only the lesion determines the class. They show that a program learns, not
that it works on patients.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.phantoms import anatomy, shapes

SLICES_PER_PATIENT = 2
_SPACING = 0.25  # depth between two slices of a patient

# Random streams: of a patient's slices together, and of each slice.
_PATIENT_STREAM, _SLICE_STREAM = 1 << 40, 1 << 41


@dataclasses.dataclass(frozen=True)
class Phantom:
    """A phantom slice with its ground truth.

    Attributes:
      image: `[H, W]` uint8.
      lesion: `[H, W]` bool, the tumour without its oedema; all False for `no_tumor`.
      plane: `axial`, `coronal` or `sagittal`.
      patient: its patient; `SLICES_PER_PATIENT` consecutive indices share one.
    """

    image: np.ndarray
    lesion: np.ndarray
    plane: str
    patient: str


def render(index: int, *, label: str, seed: int) -> Phantom:
    """Draws the slice `index` (from 0) of a class, as a function of these arguments alone.

    Raises:
      ValueError: `label` is not one of `BRAIN_TUMOR_CLASSES`, or `index` is negative.
    """
    if label not in BRAIN_TUMOR_CLASSES:
        raise ValueError(f"label is {label!r}: use one of {', '.join(BRAIN_TUMOR_CLASSES)}")
    if index < 0:
        raise ValueError(f"index is {index}: use 0 or more")
    kind = BRAIN_TUMOR_CLASSES.index(label)
    patient, position = divmod(index, SLICES_PER_PATIENT)
    shared = _make_generator(seed, _PATIENT_STREAM + kind, patient)
    own = _make_generator(seed, _SLICE_STREAM + kind, index)
    # From the middle of the lesion outwards; at 0 the first slices of all patients would have the same depth.
    depth = (position + float(shared.uniform(0.1, 0.9))) * _SPACING  # 0..1

    plane = shapes.PLANES[int(shared.integers(len(shapes.PLANES)))]
    frame = _Exposure.draw(shared)
    slice_ = anatomy.draw(shared, plane=plane, label=label, depth=depth)
    image, lesion = frame.expose(slice_.intensity, slice_.lesion, own)
    return Phantom(image=image, lesion=lesion, plane=plane, patient=name_patient(label, index))


def _make_generator(seed: int, stream: int, number: int) -> np.random.Generator:
    """Makes the generator of these arguments in 0 .. 2**64 - 1 alone.

    The counter-based Philox separates their streams by construction (Salmon et al. 2011, "Parallel random numbers: as
    easy as 1, 2, 3"). Hashing the three into one seed could cause collisions.
    """
    key, counter = np.array([seed, stream], np.uint64), np.array([0, 0, 0, number], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A phantom of a set: its path in the Kaggle layout, and the arguments of `render`."""

    path: str
    label: str
    index: int
    patient: str


def list_entries(*, training_per_class: int, testing_per_class: int) -> list[Entry]:
    """Lists a set of phantoms sorted by path, `Training/<class>/phantom_0001.png` and `Testing/...`.

    No patient is in both splits.
    """
    found = []
    for split, count in (("Testing", testing_per_class), ("Training", training_per_class)):
        start = get_first_index(split, training_per_class=training_per_class)
        for label in BRAIN_TUMOR_CLASSES:
            for number in range(count):
                path = format_path(split, label, number, count=count)
                found.append(Entry(path, label, start + number, name_patient(label, start + number)))
    return found


def format_path(split: str, label: str, number: int, *, count: int) -> str:
    """Formats the path of phantom `number` (from 0) among `count` of its class; paths sort in the order of numbers."""
    return f"{split}/{label}/phantom_{number + 1:0{max(4, len(str(count)))}d}.png"


def get_first_index(split: str, *, training_per_class: int) -> int:
    """Returns the index of the first phantom of a class in a split."""
    # Testing starts with the first patient that Training does not use.
    return 0 if split == "Training" else math.ceil(training_per_class / SLICES_PER_PATIENT) * SLICES_PER_PATIENT


def parse_index(split: str, name: str, *, training_per_class: int) -> int:
    """Returns the index of the phantom with a file name in a split."""
    number = int(name.removeprefix("phantom_").removesuffix(".png")) - 1
    return get_first_index(split, training_per_class=training_per_class) + number


def name_patient(label: str, index: int) -> str:
    """Returns the patient of a phantom."""
    return f"{label}-{index // SLICES_PER_PATIENT:04d}"


@dataclasses.dataclass(frozen=True)
class _Exposure:
    """The exposure of a patient's slices: size, position of the head, receiver and noise. Independent of the class."""

    height: int
    width: int
    head: float  # the head's height as a fraction of the frame's
    stretch: float  # of the head, horizontally
    angle: float
    shift: tuple[float, float]  # fractions of the frame
    gain: float  # of 255
    gamma: float
    floor: float
    noise: float
    bias: np.ndarray  # [3, 3] float32

    @classmethod
    def draw(cls, generator: np.random.Generator) -> "_Exposure":
        uniform = generator.uniform
        height = int(generator.integers(180, 321))
        return cls(
            height=height,
            width=int(np.clip(height * uniform(0.8, 1.2), 180, 320)),
            head=uniform(0.68, 1.0),
            stretch=uniform(0.94, 1.06),
            angle=uniform(-0.12, 0.12),
            shift=(uniform(-0.03, 0.03), uniform(-0.03, 0.03)),
            gain=uniform(0.6, 1.05),
            gamma=uniform(0.8, 1.25),
            floor=max(0.0, uniform(-0.03, 0.04)),
            noise=uniform(0.008, 0.045),
            bias=(1 + 0.22 * generator.standard_normal((3, 3))).astype(np.float32),
        )

    def expose(
        self, intensity: np.ndarray, lesion: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Resamples the canonical slice to the pixels of the frame: `[H, W]` uint8 and `[H, W]` bool."""
        matrix = self._compute_matrix()
        size = (self.width, self.height)
        image = Image.fromarray(intensity).transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        covered = (lesion * 255).astype(np.uint8)
        mask = Image.fromarray(covered).transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        bias = Image.fromarray(self.bias.clip(0.6, 1.4)).resize(size, Image.Resampling.BICUBIC)
        # The magnitude of a noisy signal, so that the background is never quite black.
        values = np.asarray(image) * np.asarray(bias)
        values += self.noise * generator.standard_normal(values.shape, np.float32)
        values = np.abs(values) ** self.gamma
        values *= 255 * self.gain
        values += 255 * self.floor + 0.5
        return np.clip(values, 0, 255).astype(np.uint8), np.asarray(mask) > 127

    def _compute_matrix(self) -> tuple[float, float, float, float, float, float]:
        """Computes the matrix from pixels of the frame to pixels of the canonical grid."""
        # The head is `shapes.HEIGHT` canonical pixels high, and must fit the width of the frame too.
        scale = shapes.HEIGHT / (self.head * min(self.height, self.width * 1.1))
        cosine, sine = math.cos(self.angle) * scale, math.sin(self.angle) * scale
        a, b, c, d = cosine / self.stretch, sine / self.stretch, -sine, cosine
        x = self.width * (0.5 + self.shift[0])
        y = self.height * (0.5 + self.shift[1])
        centre = shapes.SIZE / 2
        return (a, b, centre - a * x - b * y, c, d, centre - c * x - d * y)
