"""The lesions of the phantoms: location, appearance, and displacement of the surrounding tissue."""

import dataclasses
import math

import numpy as np

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
    measure_ellipse,
    paint,
    smooth_noise,
    soften,
)


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A mass in the canonical frame."""

    kind: str
    centre: tuple[float, float]
    radius: float
    contrast: float  # 0..1, of the enhancing part
    push: float  # displacement of the surrounding tissue, as a fraction of the radius
    shape: np.ndarray  # random numbers for the outline and the inside


def draw_lesion(generator: np.random.Generator, *, plane: str, label: str, depth: float) -> Lesion | None:
    """Draws a lesion of the class at a typical place in the plane, smaller with `depth` (0..1); None for `no_tumor`."""
    if label == "no_tumor":
        return None
    uniform = generator.uniform
    shape = generator.standard_normal((44, 44)).astype(np.float32)
    contrast = uniform(0.55, 1.0)
    centre_u, centre_v, half_u, half_v = CRANIUM[plane]
    inner = 1 - (SCALP + SKULL + FLUID) / min(half_u, half_v)
    if label == "pituitary_tumor":
        radius, push = uniform(0.085, 0.17), 0.3
        u, v = SELLA[plane]
        # Pituitary tumours grow upwards, out of the sella.
        centre = (u + uniform(-0.025, 0.025), v - (0.5 * radius if plane != "axial" else uniform(-0.02, 0.02)))
    elif label == "meningioma_tumor":
        radius, push = uniform(0.12, 0.28), 0.35
        falx = plane != "sagittal" and uniform() < 0.25
        side = 1 if uniform() < 0.5 else -1
        if falx:
            centre = (side * 0.85 * radius, centre_v - half_v * inner * uniform(0.45, 0.75))
        else:
            # The convexity: anywhere in an axial slice, above the base in the others.
            angle = uniform(-math.pi, math.pi) if plane == "axial" else uniform(-0.97 * math.pi, -0.03 * math.pi)
            reach = inner - 0.72 * radius / min(half_u, half_v)
            centre = (centre_u + half_u * reach * math.cos(angle), centre_v + half_v * reach * math.sin(angle))
    else:
        radius, push = uniform(0.14, 0.27), uniform(0, 0.35)
        angle = uniform(-math.pi, math.pi) if plane == "axial" else uniform(-math.pi, 0.0)
        reach = inner * uniform(0.3, 0.62)
        centre = (centre_u + half_u * reach * math.cos(angle), centre_v + half_v * reach * math.sin(angle))
    radius *= math.sqrt(1 - (0.65 * depth) ** 2)
    return Lesion(label, centre, radius, contrast, push, shape)


def displace(u: np.ndarray, v: np.ndarray, lesion: Lesion | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coordinates of the tissue at each point after the mass has displaced it outwards."""
    if lesion is None or lesion.push == 0:
        return u, v
    du, dv = u - lesion.centre[0], v - lesion.centre[1]
    squared = (du * du + dv * dv) * (1 / lesion.radius**2)
    pull = lesion.push * np.exp(squared * -0.35)
    return u - du * pull, v - dv * pull


def paint_lesion(
    image: np.ndarray, plane: str, lesion: Lesion | None, brain: np.ndarray, tissue: Tissue, texture: np.ndarray
) -> np.ndarray:
    """Paints the mass and returns its mask, 0..1."""
    if lesion is None:
        return np.zeros((SIZE, SIZE), np.float32)
    du, dv = U - lesion.centre[0], V - lesion.centre[1]
    distance = np.sqrt(du * du + dv * dv) * (1 / lesion.radius)
    bright = tissue.white + lesion.contrast * (tissue.enhanced - tissue.white)
    rough, fine = smooth_noise(lesion.shape, 16), smooth_noise(texture, 40)
    softness = 0.02 / lesion.radius
    if lesion.kind == "glioma_tumor":
        return _paint_glioma(image, lesion, distance + 0.20 * rough, fine, brain, tissue, bright)
    if lesion.kind == "meningioma_tumor":
        mask = soften(1 - distance - 0.05 * rough, softness) * soften(brain + 0.035, 0.02)
        cleft = soften(1.12 - distance, softness) * soften(brain, 0.02)
        paint(image, 0.6 * cleft, tissue.fluid)
        paint(image, mask, bright * (1 + 0.03 * fine))
        return mask
    # Pituitary: lobes that grow out of the sella.
    lobes = 1 - distance
    for number in range(2):
        a, b, size = np.tanh(lesion.shape[number, :3]).tolist()
        lift = -0.45 if plane != "axial" else 0.5 * b
        offset = (lesion.centre[0] + 0.45 * a * lesion.radius, lesion.centre[1] + lift * lesion.radius)
        lobe = measure_ellipse(U, V, offset, (lesion.radius * (0.7 + 0.1 * size),) * 2)
        lobes = np.maximum(lobes, lobe * (1 / lesion.radius))
    mask = soften(lobes - 0.06 * rough, softness)
    paint(image, mask, bright * (1 + 0.04 * fine))
    return mask


def _paint_glioma(
    image: np.ndarray,
    lesion: Lesion,
    distance: np.ndarray,
    fine: np.ndarray,
    brain: np.ndarray,
    tissue: Tissue,
    bright: float,
) -> np.ndarray:
    """Paints oedema, an enhancing irregular rim and a dark necrotic core; some gliomas have no core or hardly a rim."""
    inside = soften(brain, 0.02)
    necrosis, spread, rim = (0.5 + 0.5 * np.tanh(lesion.shape[0, :3])).tolist()
    oedema = soften(1.35 + 0.5 * spread - distance, 0.5) * inside
    paint(image, 0.7 * oedema, tissue.oedema)
    mask = soften(1 - distance, 0.03 / lesion.radius) * inside
    paint(image, mask, bright * (1 + 0.16 * fine))
    core = soften(0.45 + 0.35 * necrosis - 0.1 * rim - distance, 0.15) * inside
    paint(image, (0.9 if necrosis > 0.25 else 0.3) * core, 0.6 * tissue.fluid + 0.4 * tissue.oedema)
    return mask
