"""Drawing of faces with six factors of variation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

from pyro_vae._core.checks import check_count, require

FACTORS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"smile": (-1, 1), "turn": (-1, 1), "glasses": (0, 1), "hair": (0, 1), "brows": (-1, 1), "width": (-1, 1)}
)
"""Range of each factor, see :func:`draw_face`."""
BINARY = ("glasses",)
MIN_SIZE = 16
_SCALE = 4  # pixels drawn per pixel and direction, averaged for smooth edges
_MAX_TURN = 0.45  # radians
_MIDDLE, _HEIGHT = -0.04, 0.66  # of the head, in a square of [-1, 1] x [-1, 1], y downwards
_SKIN, _SHADE, _BLUSH = (238, 192, 158), (214, 160, 126), (232, 160, 138)
_HAIR, _BROW, _INK = (86, 54, 36), (66, 42, 30), (40, 34, 38)
_LIP, _TEETH, _IRIS, _WHITE = (178, 70, 74), (250, 248, 244), (64, 104, 140), (252, 252, 252)
_WALL, _SHIRT = (206, 218, 228), (66, 98, 146)
Point = tuple[float, float]
Color = tuple[int, int, int]


def draw_face(
    smile: float = 0.0,
    turn: float = 0.0,
    glasses: float = 0.0,
    hair: float = 0.5,
    brows: float = 0.0,
    width: float = 0.0,
    *,
    size: int = 32,
    color: bool = False,
) -> np.ndarray:
    """Draw a face; the image is a smooth function of every factor but ``glasses``.

    Args:
        smile: from -1, the corners of the mouth down, to 1, an open smile.
        turn: from -1, the head turned by 26 degrees to the viewer's left, to 1, to the right.
        glasses: 0 or 1.
        hair: from 0, short, to 1, down to the shoulders.
        brows: from -1, low, to 1, raised.
        width: from -1, a narrow head, to 1, a wide one.
        size: height and width of the image in pixels, at least 16.
        color: three channels instead of one.

    Returns:
        uint8 pixels, ``(1, size, size)`` or ``(3, size, size)``.

    Raises:
        ValueError: a factor out of its range, or ``size`` below 16.

    Example:
        >>> draw_face(smile=1.0, glasses=1, color=True).shape
        (3, 32, 32)
    """
    factors = {"smile": smile, "turn": turn, "glasses": glasses, "hair": hair, "brows": brows, "width": width}
    for name, value in factors.items():
        low, high = FACTORS[name]
        rule = f"{name} must lie in [{low}, {high}]"
        require(isinstance(value, int | float) and low <= value <= high, "draw_face", rule, f"{name}={value!r}")
    require(glasses in (0, 1), "draw_face", "glasses must be 0 or 1", f"glasses={glasses}")
    check_count("draw_face", MIN_SIZE, size=size)
    image = _Face(size, turn * _MAX_TURN, 0.52 + 0.08 * width).draw(smile, glasses, hair, brows)
    small = image.reduce(_SCALE)
    pixels = np.array(small if color else small.convert("L"))
    return pixels.transpose(2, 0, 1) if color else pixels[None]


class _Face:
    """The parts of a head as shapes on an ellipsoid, which turns about its vertical axis."""

    def __init__(self, size: int, angle: float, radius: float) -> None:
        self.image = Image.new("RGB", (size * _SCALE, size * _SCALE), _WALL)
        self.pen = ImageDraw.Draw(self.image)
        self.half = size * _SCALE / 2
        self.angle, self.radius = angle, radius

    def draw(self, smile: float, glasses: float, hair: float, brows: float) -> Image.Image:
        self._back(hair)
        for side in (-1, 1):
            self._eye(side, smile)
            self._brow(side, brows)
            self._spot((side * 0.62, 0.24), (0.11, 0.07), _mixed(_SKIN, _BLUSH, max(smile, 0)))
        self._line([(-0.02, -0.02), (0.13, 0.16), (-0.02, 0.19)], _SHADE, 0.05, depth=1.12)
        self._mouth(smile)
        self._fringe()
        if glasses:
            self._glasses()
        return self.image

    def _back(self, hair: float) -> None:
        """All that lies behind the face, and the head without its features."""
        outer, end = self.radius + 0.1, 0.78 * hair
        self._ellipse((0, _MIDDLE - 0.06), (outer, _HEIGHT + 0.08), _HAIR)
        self._polygon([(-outer, -0.12), (outer, -0.12), (outer * 1.02, end), (-outer * 1.02, end)], _HAIR)
        self._ellipse((0, end), (outer * 1.02, 0.1), _HAIR)
        self._ellipse((0, 1.12), (0.78, 0.42), _SHIRT)
        self._polygon([(-0.2, 0.4), (0.2, 0.4), (0.24, 0.82), (-0.24, 0.82)], _SHADE)
        self._ellipse((0, 0.82), (0.24, 0.1), _SHADE)
        for side in (-1, 1):
            self._ellipse((self._across(side * 1.35), 0.02), (0.08, 0.13), _SHADE)
        self._ellipse((0, _MIDDLE), (self.radius, _HEIGHT), _SHADE)
        shift = 0.05 * math.sin(self.angle)  # the light comes from the front of the head
        self._ellipse((shift, _MIDDLE - 0.01), (self.radius - 0.05, _HEIGHT - 0.04), _SKIN)

    def _eye(self, side: int, smile: float) -> None:
        at, height = (side * 0.42, -0.1), 0.085 - 0.02 * max(smile, 0)
        self._spot(at, (0.15, height), _WHITE)
        self._spot(at, (0.075, min(height, 0.075)), _IRIS)
        self._spot(at, (0.04, 0.04), _INK)

    def _brow(self, side: int, brows: float) -> None:
        inner, outer = -0.3 - 0.09 * brows, -0.29 - 0.05 * brows
        arc = [(side * 0.2, inner), (side * 0.42, min(inner, outer) - 0.03), (side * 0.62, outer)]
        self._line(arc, _BROW, 0.075)

    def _mouth(self, smile: float) -> None:
        steps = np.linspace(-1, 1, 13)
        half, center, bend = 0.36 + 0.06 * smile, 0.34, 0.11 * smile
        upper = [(half * s, center + bend * (0.4 - s * s)) for s in steps]
        opening = 0.13 * max(smile, 0)
        lower = [(half * s, y + opening * (1 - s**4)) for s, (_, y) in zip(steps, upper, strict=True)]
        self._polygon(self._turned(upper + lower[::-1]), _TEETH)
        self._line(upper, _LIP, 0.055)
        self._line(lower, _LIP, 0.055)

    def _fringe(self) -> None:
        """Hair above the forehead, with a parting that turns with the head."""
        outer, top = self.radius + 0.1, _HEIGHT + 0.08
        over = np.linspace(math.pi, 2 * math.pi, 17)
        cap = [(outer * math.cos(a), _MIDDLE - 0.06 + top * math.sin(a)) for a in over]
        steps = np.linspace(1.25, -1.25, 15)
        line = [(self._across(s), -0.45 + 0.35 * (s / 1.25) ** 4 - 0.06 * math.cos(2 * s)) for s in steps]
        self._polygon([*cap, (outer, 0.0), *line, (-outer, 0.0)], _HAIR)

    def _glasses(self) -> None:
        around = np.linspace(0, 2 * math.pi, 25)
        for side in (-1, 1):
            rim = [(side * 0.44 + 0.27 * math.cos(a), -0.09 + 0.17 * math.sin(a)) for a in around]
            self._line(rim, _INK, 0.05, depth=1.04)
            self._line([(side * 0.66, -0.12), (side * 1.2, -0.14)], _INK, 0.05)
        self._line([(-0.17, -0.1), (0, -0.13), (0.17, -0.1)], _INK, 0.05, depth=1.04)

    def _across(self, longitude: float, depth: float = 1.0) -> float:
        """Horizontal position of a point of the head, in radians from the middle of the face."""
        turned = max(-math.pi / 2, min(math.pi / 2, longitude + self.angle))
        return self.radius * depth * math.sin(turned)

    def _turned(self, points: list[Point], depth: float = 1.0) -> list[Point]:
        return [(self._across(x, depth), y) for x, y in points]

    def _spot(self, at: Point, radii: Point, color: Color) -> None:
        """An ellipse on the head, narrower where the head turns away."""
        left, right = self._across(at[0] - radii[0] / self.radius), self._across(at[0] + radii[0] / self.radius)
        self._ellipse(((left + right) / 2, at[1]), ((right - left) / 2, radii[1]), color)

    def _line(self, points: list[Point], color: Color, width: float, depth: float = 1.0) -> None:
        """A line on the head with round ends."""
        line = [self._pixel(point) for point in self._turned(points, depth)]
        self.pen.line(line, fill=color, width=max(1, round(width * self.half)), joint="curve")
        for end in (points[0], points[-1]):
            self._ellipse(self._turned([end], depth)[0], (width / 2, width / 2), color)

    def _ellipse(self, at: Point, radii: Point, color: Color) -> None:
        (x, y), (a, b) = self._pixel(at), (radii[0] * self.half, radii[1] * self.half)
        self.pen.ellipse((x - a, y - b, x + a, y + b), fill=color)

    def _polygon(self, points: list[Point], color: Color) -> None:
        self.pen.polygon([self._pixel(point) for point in points], fill=color)

    def _pixel(self, point: Point) -> Point:
        return (1 + point[0]) * self.half, (1 + point[1]) * self.half


def _mixed(a: Color, b: Color, share: float) -> Color:
    red, green, blue = (round(x + share * (y - x)) for x, y in zip(a, b, strict=True))
    return red, green, blue
