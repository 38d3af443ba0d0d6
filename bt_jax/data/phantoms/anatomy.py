"""The anatomy of the phantoms: heads and brains on the canonical grid, before exposure.

Everything except the lesion has the same distribution for all classes, including the level of the slice: each plane
passes through the sella, where all kinds of lesions can occur.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from bt_jax.data.phantoms.lesions import displace, draw_lesion, paint_lesion
from bt_jax.data.phantoms.shapes import (
    CRANIUM,
    FLUID,
    SCALP,
    SELLA,
    SIZE,
    SKULL,
    Tissue,
    U,
    V,
    draw_tissue,
    measure_ellipse,
    paint,
    smooth_noise,
    soften,
)


@dataclasses.dataclass(frozen=True)
class PhantomSlice:
    """A slice on the canonical grid: `intensity` `[SIZE, SIZE]` float32, about 0..1, and `lesion` (float32, 0..1)."""

    intensity: np.ndarray
    lesion: np.ndarray


def draw(generator: np.random.Generator, *, plane: str, label: str, depth: float) -> PhantomSlice:
    """Draws one slice of a patient.

    Args:
      generator: in the patient's initial state, so that all slices draw the same patient.
      plane: one of `PLANES`.
      label: one of the four classes.
      depth: 0..1, the slice's distance from the middle of the lesion; heads and lesions become smaller with it.
    """
    tissue = draw_tissue(generator)
    textures = generator.standard_normal((4, 2, 44, 44)).astype(np.float32)
    traits = generator.random(40).tolist()
    lesion = draw_lesion(generator, plane=plane, label=label, depth=depth)
    # Textures change smoothly from slice to slice, as in a volume.
    turn = 0.9 * depth
    fields = math.cos(turn) * textures[:, 0] + math.sin(turn) * textures[:, 1]

    shrink = 1 + 0.05 * depth
    u, v = displace(U * shrink, V * shrink, lesion)
    image = np.zeros((SIZE, SIZE), np.float32)
    brain = _paint_head(image, u, v, plane, tissue, fields, traits)
    _PARTS[plane](image, u, v, brain, tissue, traits)
    _paint_distractors(image, u, v, plane, brain, tissue, traits)
    if plane != "axial":
        image *= soften(1.02 + 0.12 * traits[13] - V, 0.3)  # the sensitivity of the coil ends in the neck
    mask = paint_lesion(image, plane, lesion, brain, tissue, fields[3])
    return PhantomSlice(intensity=image, lesion=mask)


def _paint_head(
    image: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    plane: str,
    tissue: Tissue,
    fields: np.ndarray,
    traits: Sequence[float],
) -> np.ndarray:
    """Paints scalp, skull, soft tissue and the folded brain; returns the brain's implicit function."""
    centre_u, centre_v, half_u, half_v = CRANIUM[plane]
    half_u *= 0.96 + 0.08 * traits[0]
    half_v *= 0.97 + 0.05 * traits[1]
    x, y = (u - centre_u) / half_u, (v - centre_v) / half_v
    squared = x * x + y * y
    # Narrower in front, slightly square and asymmetric: harmonics of the polar angle, without computing the angle.
    narrow = (0.05 if plane == "axial" else 0.0) + 0.03 * (traits[2] - 0.5)
    lopsided = 0.03 * (traits[3] - 0.5)
    inverse = 1 / np.sqrt(squared + 1e-6)
    outline = 1 + (narrow * y + lopsided * x) * inverse + 0.05 * (2 * x * y * inverse * inverse) ** 2
    cranium = (outline - np.sqrt(squared)) * min(half_u, half_v)

    folds, coarse, soft = smooth_noise(fields[0], 27), smooth_noise(fields[1], 7), smooth_noise(fields[2], 40)
    base, head = _outline_head(plane, u, v, cranium, traits)
    paint(image, soften(head), tissue.scalp * (1 + 0.08 * coarse))
    if plane != "axial":
        # Face and neck: muscle and fat in layers, air in large cavities.
        layers = np.sin(9 * v + 2.2 * coarse + 6 * np.abs(u))
        fat = soften(layers + 0.5 * soft - 0.45, 1.1)
        patches = tissue.muscle + fat * (0.8 * tissue.scalp - tissue.muscle)
        air = soften(coarse - 0.85, 0.4) * soften(head - 0.15, 0.05)
        patches = patches * (1 - 0.8 * air)
        paint(image, soften(head - 0.06, 0.03) * soften(v - base - 0.02, 0.06), patches)

    inside = np.minimum(cranium, base - v + SCALP)
    skull = inside - SCALP * (0.7 + 0.6 * traits[4])
    paint(image, soften(skull), tissue.skull)
    paint(image, soften(0.012 - np.abs(skull - 0.03), 0.012), tissue.marrow)
    dura = inside - SCALP - SKULL
    paint(image, soften(dura), tissue.fluid)
    brain = dura - FLUID * (0.4 + 1.2 * traits[5])

    # Level lines of smooth noise look like sulci; they fade into white matter with depth.
    depth = brain - 0.16 - 0.12 * traits[6]
    cortical = soften(-depth, 0.30)
    distance = np.abs(folds)
    ribbon = np.clip(1.15 - distance * 1.5, 0, 1) * cortical
    sulcus = np.clip(1.0 - distance * (5.0 - 2.0 * traits[7]), 0, 1) * cortical
    rim = soften(0.05 - brain, 0.04)
    grey = np.maximum(ribbon, rim)
    matter = tissue.white + grey * (tissue.grey - tissue.white)
    matter = matter + 0.012 * soft + 0.012 * coarse
    matter += 0.75 * sulcus * (tissue.fluid - matter)
    paint(image, soften(brain), matter)
    return brain


def _outline_head(
    plane: str, u: np.ndarray, v: np.ndarray, cranium: np.ndarray, traits: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the height v of the skull base below each point, and the implicit function of the whole head."""
    if plane == "axial":
        return np.full_like(u, 9.0), cranium
    if plane == "coronal":
        side = np.abs(u)
        base = 0.14 + 0.20 * soften(side - 0.28, 0.16)
        base -= 0.10 * soften(side - 0.62, 0.2)
        width = 0.60 + 0.08 * traits[8] - 0.16 * np.clip(v - 0.1, 0, 1)
        return base, np.maximum(cranium, np.minimum(width - side, v))
    base = 0.12 + 0.36 * soften(u - 0.10, 0.32)
    nose = 0.16 * np.clip(1 - np.abs(v - 0.36) * 5, 0, 1)
    lips = 0.05 * np.cos((v - 0.75) * 18)
    front = -0.76 + 0.06 * traits[8] - nose + lips * soften(v - 0.45, 0.2)
    front += 0.35 * np.clip(v - 0.9, 0, 1)
    back = 0.86 - 0.34 * soften(v - 0.35, 0.5)
    return base, np.maximum(cranium, np.minimum(np.minimum(u - front, back - u), v + 0.1))


def _paint_axial(
    image: np.ndarray, u: np.ndarray, v: np.ndarray, brain: np.ndarray, tissue: Tissue, traits: Sequence[float]
) -> None:
    side = np.abs(u + 0.012 * np.sin(6 * v))
    wide = 0.7 + 0.8 * traits[10]
    fluid = tissue.fluid
    # Deep grey nuclei, sylvian fissures, frontal horns, cisterns around the midbrain, interhemispheric fissure.
    paint(image, 0.8 * soften(measure_ellipse(side, v, (0.22, -0.16), (0.10, 0.16), 0.35), 0.05), tissue.grey)
    paint(image, 0.8 * soften(measure_ellipse(side, v, (0.52, -0.10), (0.16, 0.025 * wide), -0.45), 0.03), fluid)
    paint(image, soften(measure_ellipse(side, v, (0.085, -0.36), (0.032 * wide, 0.13), -0.45), 0.02), fluid)
    paint(image, 0.9 * soften(measure_ellipse(side, v, (0.26, 0.42), (0.035 * wide, 0.14), -0.4), 0.03), fluid)
    cistern = np.maximum(
        measure_ellipse(u, v, (0, -0.05), (0.13, 0.085)), measure_ellipse(u, v, (0, 0.16), (0.21, 0.18))
    )
    paint(image, 0.9 * soften(cistern, 0.04), fluid)
    midbrain = np.minimum(measure_ellipse(u, v, (0, 0.16), (0.18, 0.145)), side * 2 + 0.22 - soften(v, 0.05) * 0.2)
    paint(image, soften(midbrain, 0.03), (tissue.white + tissue.grey) / 2)
    paint(image, soften(measure_ellipse(u, v, (0, 0.235), (0.012, 0.02)), 0.012), fluid)
    fissure = 0.014 - side
    paint(
        image,
        0.8 * soften(fissure, 0.012) * soften(np.abs(v + 0.02) - 0.46, 0.1) * soften(brain + 0.03),
        fluid,
    )


def _paint_coronal(
    image: np.ndarray, u: np.ndarray, v: np.ndarray, brain: np.ndarray, tissue: Tissue, traits: Sequence[float]
) -> None:
    side = np.abs(u + 0.01 * np.sin(7 * v))
    wide = 0.7 + 0.9 * traits[10]
    fluid = tissue.fluid
    paint(image, 0.8 * soften(measure_ellipse(side, v, (0.23, -0.14), (0.11, 0.12)), 0.05), tissue.grey)
    paint(image, soften(measure_ellipse(side, v, (0.10, -0.33), (0.10, 0.035 * wide), 0.5), 0.02), fluid)
    paint(image, soften(measure_ellipse(u, v, (0, -0.12), (0.014 * wide, 0.11)), 0.015), fluid)
    paint(image, 0.9 * soften(measure_ellipse(side, v, (0.53, -0.03), (0.15, 0.022 * wide), 0.25), 0.03), fluid)
    paint(image, 0.9 * soften(measure_ellipse(u, v, (0, 0.09), (0.16, 0.07)), 0.04), fluid)
    if traits[11] < 0.4:  # an oblique slice meets the brainstem
        paint(image, soften(measure_ellipse(u, v, (0, 0.05), (0.11, 0.10)), 0.03), tissue.white)
    fissure = 0.013 - side
    paint(
        image,
        0.8 * soften(fissure, 0.012) * soften(-0.42 - v, 0.1) * soften(brain + 0.03),
        fluid,
    )
    # Below the sella: the sphenoid sinus, the airway and the jaws' cavities.
    paint(image, soften(measure_ellipse(u, v, (0, 0.33), (0.15, 0.10 + 0.04 * traits[12])), 0.02), tissue.skull)
    paint(image, 0.8 * soften(measure_ellipse(u, v, (0, 0.66), (0.10, 0.14)), 0.05), tissue.skull)


def _paint_sagittal(
    image: np.ndarray, u: np.ndarray, v: np.ndarray, brain: np.ndarray, tissue: Tissue, traits: Sequence[float]
) -> None:
    wide = 0.7 + 0.9 * traits[10]
    fluid = tissue.fluid
    inside = soften(brain + 0.02, 0.03)
    # The ventricle under the arch of the corpus callosum, the thalamus inside it.
    paint(
        image,
        soften(measure_ellipse(u, v, (0.04, -0.18), (0.30, 0.12 * wide), 0.05), 0.03) * soften(-0.10 - v, 0.1),
        fluid,
    )
    paint(image, soften(measure_ellipse(u, v, (0.06, -0.07), (0.18, 0.10)), 0.03), tissue.grey)
    arch = 0.032 - np.abs(measure_ellipse(u, v, (0.04, -0.12), (0.37, 0.22), 0.05))
    paint(image, soften(arch, 0.025) * soften(-0.10 - v, 0.06), tissue.white * 1.12)
    # Posterior fossa: cistern, cerebellum with its leaves, brainstem down into the neck.
    paint(image, 0.9 * inside * soften(measure_ellipse(u, v, (0.38, 0.26), (0.36, 0.26), 0.25), 0.04), fluid)
    cerebellum = measure_ellipse(u, v, (0.50, 0.25), (0.25, 0.19), 0.35)
    leaves = np.sin(70 * measure_ellipse(u, v, (0.24, 0.22), (0.5, 0.42), 0.3))
    paint(
        image,
        inside * soften(cerebellum, 0.03),
        tissue.grey + (tissue.white - tissue.grey) * 0.8 * (leaves > 0),
    )
    stem = 0.085 - np.abs(u - 0.06 - 0.42 * (v - 0.05) + 0.3 * np.clip(v - 0.45, 0, 1))
    stem -= 0.03 * soften(v - 0.45, 0.15)
    paint(image, soften(stem + 0.035, 0.02) * soften(v - 0.02, 0.08), fluid)
    pons = np.maximum(stem, measure_ellipse(u, v, (0.10, 0.24), (0.11, 0.12), 0.3))
    paint(image, soften(pons, 0.02) * soften(v + 0.02, 0.1), tissue.white * 0.97)
    # The sella with the sphenoid sinus in front and below, and the airway.
    paint(image, 0.9 * soften(measure_ellipse(u, v, (-0.12, 0.10), (0.12, 0.06)), 0.04), fluid)
    paint(image, soften(measure_ellipse(u, v, (-0.22, 0.30), (0.15, 0.09 + 0.03 * traits[12])), 0.02), tissue.skull)
    paint(image, 0.8 * soften(measure_ellipse(u, v, (-0.40, 0.62), (0.26, 0.035), -0.15), 0.04), tissue.skull)
    paint(image, 0.8 * soften(measure_ellipse(u, v, (-0.06, 0.78), (0.045, 0.24), -0.1), 0.04), tissue.skull)


_PARTS = {"axial": _paint_axial, "coronal": _paint_coronal, "sagittal": _paint_sagittal}


def _paint_distractors(
    image: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    plane: str,
    brain: np.ndarray,
    tissue: Tissue,
    traits: Sequence[float],
) -> None:
    """Paints structures that are bright in healthy heads too: gland, vessels, venous sinus, choroid plexus, scars."""
    bright = tissue.enhanced
    sella_u, sella_v = SELLA[plane]
    paint(
        image,
        0.8 * soften(measure_ellipse(u, v, (sella_u, sella_v), (0.045, 0.03 + 0.015 * traits[20])), 0.02),
        0.5 * bright + 0.5 * tissue.white,
    )
    inside = soften(brain, 0.02)
    for number in range(3):
        a, b, size, strength = traits[21 + 4 * number : 25 + 4 * number]
        spot = measure_ellipse(u, v, (a - 0.5, 1.1 * (b - 0.62)), (0.018 + 0.03 * size, 0.014 + 0.012 * a), 6 * b)
        paint(image, strength * inside * soften(spot, 0.015), bright)
    if plane == "sagittal":
        return
    side = np.abs(u)
    sinus = measure_ellipse(u, v, (0, 0.80 if plane == "axial" else -0.84), (0.035 + 0.02 * traits[33], 0.045))
    paint(image, (0.4 + 0.6 * traits[34]) * soften(sinus, 0.02), bright)
    vessels = measure_ellipse(side, v, (0.12, sella_v - 0.02), (0.022, 0.022))
    paint(image, 0.8 * traits[35] * soften(vessels, 0.02), bright)
    if plane == "axial":
        plexus = measure_ellipse(side, v, (0.25, 0.44), (0.022, 0.05), -0.4)
        paint(image, traits[36] * soften(plexus, 0.02), bright if traits[37] < 0.6 else tissue.skull)
