"""Synthetic out-of-distribution (OOD) images, which do not show a brain.

They are blank or noisy images, patterns, text, charts, outlines of other body parts, and clouds and hills with the
spectrum of photographs. They measure how often OOD detection works; nothing is fitted to them.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIDE = 256
_WORDS = ("patient", "name", "hospital", "report", "findings", "no evidence of", "sequence", "contrast", "slice")


@dataclasses.dataclass(frozen=True)
class OODImage:
    """An image and its kind.

    Attributes:
      kind: a key of `KINDS`.
      image: [H, W] uint8.
    """

    kind: str
    image: np.ndarray


def draw(*, each: int, seed: int = 0) -> list[OODImage]:
    """Draws `each` images of every kind, as a function of these arguments alone."""
    return [
        OODImage(kind, draw_one(np.random.default_rng((seed, number, index))))
        for number, (kind, draw_one) in enumerate(KINDS.items())
        for index in range(each)
    ]


def _draw_blank(generator: np.random.Generator) -> np.ndarray:
    return np.full((_SIDE, _SIDE), int(generator.choice((0, 64, 128, 200, 255))), np.uint8)


def _draw_noise(generator: np.random.Generator) -> np.ndarray:
    return generator.integers(0, 256, (_SIDE, _SIDE)).astype(np.uint8)


def _draw_clouds(generator: np.random.Generator) -> np.ndarray:
    """Draws noise whose amplitudes fall with the frequency, as in photographs (Field 1987)."""
    down, across = np.meshgrid(*(np.fft.fftfreq(_SIDE),) * 2, indexing="ij")
    amplitude = np.hypot(down, across)
    amplitude[0, 0] = 1
    phases = np.exp(2j * np.pi * generator.random((_SIDE, _SIDE)))
    return _stretch(np.fft.ifft2(phases / amplitude ** generator.uniform(0.9, 1.6)).real)


def _draw_landscape(generator: np.random.Generator) -> np.ndarray:
    """Draws a bright sky above ridges of hills, each darker than the one behind."""
    image = np.linspace(250, generator.uniform(150, 220), _SIDE)[:, None] * np.ones((1, _SIDE))
    rows = np.arange(_SIDE)[:, None]
    for ridge in range(4):
        steps = generator.normal(0, 2.5, _SIDE)
        line = _SIDE * (0.35 + 0.15 * ridge) + np.cumsum(steps) * 0.6
        texture = generator.normal(0, 8, (_SIDE, _SIDE))
        image = np.where(rows > line, 160 - 38 * ridge + texture, image)
    return image.clip(0, 255).astype(np.uint8)


def _draw_stripes(generator: np.random.Generator) -> np.ndarray:
    down, across = np.mgrid[:_SIDE, :_SIDE]
    angle, width = generator.uniform(0, np.pi), generator.uniform(6, 40)
    waves = np.sin((across * np.cos(angle) + down * np.sin(angle)) * 2 * np.pi / width)
    return _stretch(np.sign(waves) if generator.random() < 0.5 else waves)


def _draw_checkerboard(generator: np.random.Generator) -> np.ndarray:
    cell = int(generator.integers(8, 48))
    down, across = np.mgrid[:_SIDE, :_SIDE] // cell
    return np.where((down + across) % 2, int(generator.integers(150, 256)), int(generator.integers(0, 100))).astype(
        np.uint8
    )


def _draw_text(generator: np.random.Generator) -> np.ndarray:
    ink, paper = (20, 250) if generator.random() < 0.7 else (240, 10)
    image = Image.new("L", (_SIDE, _SIDE), paper)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=int(generator.integers(10, 22)))
    for top in range(8, _SIDE - 16, 22):
        pen.text((10, top), " ".join(generator.choice(_WORDS, 6)), fill=ink, font=font)
    return np.array(image)


def _draw_chart(generator: np.random.Generator) -> np.ndarray:
    """Draws a bar, line or pie chart on white."""
    image = Image.new("L", (_SIDE, _SIDE), 255)
    pen = ImageDraw.Draw(image)
    values = generator.uniform(0.15, 0.95, 8)
    kind = int(generator.integers(3))
    if kind == 2:
        angles = np.concatenate([[0], np.cumsum(values[:5]) / values[:5].sum() * 360])
        for number in range(5):
            pen.pieslice((40, 40, 216, 216), angles[number], angles[number + 1], fill=60 + 40 * number, outline=0)
        return np.array(image)
    pen.line([(30, 20), (30, 226), (240, 226)], fill=0, width=2)
    tops = [(42 + 25 * number, 226 - 190 * value) for number, value in enumerate(values)]
    if kind == 0:
        for x, top in tops:
            pen.rectangle((x, top, x + 16, 225), fill=int(generator.integers(60, 180)))
    else:
        pen.line(tops, fill=60, width=3)
    return np.array(image)


def _draw_limbs(generator: np.random.Generator) -> np.ndarray:
    """Draws two round cross-sections on black, with bright bone and dim tissue: thighs or arms."""
    image = np.zeros((_SIDE, _SIDE))
    down, across = np.mgrid[:_SIDE, :_SIDE]
    radius = generator.uniform(42, 58)
    for centre in (68, 188):
        distance = np.hypot(across - centre, down - 128 + generator.uniform(-8, 8)) / radius
        image = np.where(distance < 1, generator.uniform(90, 120), image)
        image = np.where((distance < 0.35) & (distance > 0.2), 235, image)
    return (image + np.abs(generator.normal(0, 6, image.shape))).clip(0, 255).astype(np.uint8)


def _draw_trunk(generator: np.random.Generator) -> np.ndarray:
    """Draws a wide oval with two dark lungs, a spine and ribs."""
    down, across = np.mgrid[:_SIDE, :_SIDE]

    def measure_oval(x: float, y: float, half_x: float, half_y: float) -> np.ndarray:
        return ((across - x) / half_x) ** 2 + ((down - y) / half_y) ** 2

    image = np.where(measure_oval(128, 128, 120, generator.uniform(76, 92)) < 1, 130.0, 0.0)
    for side in (-1, 1):
        image[measure_oval(128 + side * 55, 122, generator.uniform(34, 44), 52) < 1] = 25
        for rib in np.linspace(-0.9, 0.9, 7):
            image[measure_oval(128 + side * 104 * np.cos(rib), 128 + 70 * np.sin(rib), 7, 4) < 1] = 230
    image[measure_oval(128, 182, 16, 14) < 1] = 240
    image[measure_oval(136, 132, 26, 30) < 1] = 165
    return (image + np.abs(generator.normal(0, 6, image.shape))).clip(0, 255).astype(np.uint8)


def _draw_shapes(generator: np.random.Generator) -> np.ndarray:
    """Draws rectangles and discs in all grey levels."""
    image = Image.new("L", (_SIDE, _SIDE), int(generator.integers(256)))
    pen = ImageDraw.Draw(image)
    for number in range(12):
        left, top = generator.integers(-20, _SIDE - 20, 2).tolist()
        width, height = generator.integers(20, 120, 2).tolist()
        draw_shape = pen.rectangle if number % 2 else pen.ellipse
        draw_shape((left, top, left + width, top + height), fill=int(generator.integers(256)))
    return np.array(image)


def _stretch(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return ((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "blank": _draw_blank,
    "noise": _draw_noise,
    "clouds": _draw_clouds,
    "landscape": _draw_landscape,
    "stripes": _draw_stripes,
    "checkerboard": _draw_checkerboard,
    "text": _draw_text,
    "chart": _draw_chart,
    "limbs": _draw_limbs,
    "trunk": _draw_trunk,
    "shapes": _draw_shapes,
}
