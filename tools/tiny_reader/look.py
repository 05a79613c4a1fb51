"""What a page looks like besides its text: paper and ink, turn, blur, noise, shadow."""

from __future__ import annotations

import random
from dataclasses import dataclass

Colour = tuple[int, int, int]

MOST_DEGREES = 2.0
_LEAST_CONTRAST = 95.0


@dataclass(frozen=True)
class Shadow:
    """Light that falls off across the paper: the brightness lost at the dark end (0..1), the direction in radians,
    where the middle of the fall lies (from the page's centre, in sides) and how wide it is (in sides)."""

    strength: float
    direction: float
    middle: float
    width: float


@dataclass(frozen=True)
class Look:
    """How a page is drawn. `draw_side` is the side in pixels at which it is drawn before it is resized to the page's.

    `angle` is in degrees, counter-clockwise about the centre; `blur` is a standard deviation in the page's pixels;
    `noise` one in steps of 255; `jpeg` a quality, or 0 for none.
    """

    draw_side: int
    angle: float
    paper: Colour
    ink: Colour
    blur: float
    noise: float
    jpeg: int
    shadow: Shadow | None


def choose_look(dice: random.Random, side: int) -> Look:
    """Draw a look: most pages upright, sharp and on light paper, as most uploads are."""
    paper, ink = _colours(dice)
    scale = dice.choice((0.75, 1.5, 2.0)) if dice.random() < 0.2 else 1.0
    damage = dice.random()
    return Look(
        draw_side=round(side * scale),
        angle=0.0 if dice.random() < 0.6 else dice.uniform(-MOST_DEGREES, MOST_DEGREES),
        paper=paper,
        ink=ink,
        blur=0.0 if dice.random() < 0.6 else dice.uniform(0.2, 1.0),
        noise=0.0 if dice.random() < 0.4 else dice.uniform(0.5, 10.0),
        jpeg=dice.randint(25, 90) if damage < 0.05 else 0,
        shadow=_shadow(dice) if damage > 0.95 else None,
    )


def _colours(dice: random.Random) -> tuple[Colour, Colour]:
    """Return paper and ink: half plain, a third coloured, the rest light on dark."""
    chance = dice.random()
    if chance < 0.25:
        return (255, 255, 255), _grey(dice.choice((0, 0, dice.randint(0, 70))))
    if chance < 0.50:
        return _any(dice, 228, 255), _any(dice, 0, 70)
    light, dark = ((120, 255), (0, 150)) if chance < 0.85 else ((140, 255), (0, 110))
    for _ in range(20):
        a, b = _any(dice, *light), _any(dice, *dark)
        if _brightness(a) - _brightness(b) >= _LEAST_CONTRAST:
            return (a, b) if chance < 0.85 else (b, a)
    return (250, 245, 225), (20, 30, 60)


def _grey(value: int) -> Colour:
    return value, value, value


def _any(dice: random.Random, low: int, high: int) -> Colour:
    return dice.randint(low, high), dice.randint(low, high), dice.randint(low, high)


def _brightness(colour: Colour) -> float:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _shadow(dice: random.Random) -> Shadow:
    return Shadow(
        strength=dice.uniform(0.1, 0.45),
        direction=dice.uniform(0.0, 6.2832),
        middle=dice.uniform(-0.3, 0.3),
        width=dice.choice((0.02, 0.1, 0.3)),
    )
