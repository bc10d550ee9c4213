"""Ten objects drawn with polygons: the classes of the built-in sample.

Every object fills about the square -1..1 (x to the right, y down) and varies in proportions and parts. Its colors
come from a palette that is independent of the class, so no class can be recognized by color alone.
"""

import math
from itertools import pairwise

import numpy as np

from tlab.data.sources.demo.pen import Palette, Pen, arc


def bicycle(pen: Pen, rng: np.random.Generator, colors: Palette) -> None:
    """Two wheels, a frame, a handlebar and a saddle."""
    r, rim = rng.uniform(0.38, 0.46), rng.uniform(0.07, 0.11)
    back, front, y = (-0.55, 0.4), (0.55, 0.4), 0.4
    for x, _ in (back, front):
        pen.line(arc(x, y, r, r), rim, colors.dark)
        for angle in np.arange(0, 180, rng.choice([30, 45, 60])) + rng.uniform(0, 30):
            dx, dy = r * math.cos(math.radians(angle)), r * math.sin(math.radians(angle))
            pen.line([(x - dx, y - dy), (x + dx, y + dy)], 0.02, colors.light)
    seat, steer, pedal = (-0.25, rng.uniform(-0.3, -0.15)), (0.38, rng.uniform(-0.35, -0.2)), (-0.05, 0.42)
    for a, b in [(back, seat), (back, pedal), (pedal, seat), (pedal, steer), (seat, steer), (front, steer)]:
        pen.line([a, b], 0.09, colors.main)
    pen.line([(seat[0] - 0.16, seat[1] - 0.12), (seat[0] + 0.14, seat[1] - 0.12)], 0.12, colors.second)
    pen.line([seat, (seat[0], seat[1] - 0.12)], 0.07, colors.dark)
    bar = (steer[0] + rng.uniform(-0.25, 0.25), steer[1] - 0.22)
    pen.line([steer, (steer[0] - 0.03, steer[1] - 0.18), bar], 0.08, colors.second)
    pen.ellipse(*pedal, 0.11, 0.11, colors.dark)


def car(pen: Pen, rng: np.random.Generator, colors: Palette) -> None:
    """A body, a cabin with windows, two wheels; anything from a coupe to a van."""
    deck, roof = rng.uniform(-0.12, 0.02), rng.uniform(-0.58, -0.4)
    rear, front = rng.uniform(-0.85, -0.5), rng.uniform(0.25, 0.6)
    cabin = [(rear, deck), (rear + 0.15, roof), (front - 0.3, roof), (front, deck)]
    pen.polygon(cabin, colors.main)
    middle = (rear + front) / 2 - 0.07
    for left, right in ((rear + 0.12, middle - 0.03), (middle + 0.03, front - 0.12)):
        slant = 0.06 if left < middle else -0.1
        top = [(left + max(slant, 0), roof + 0.09), (right + min(slant, 0), roof + 0.09)]
        pen.polygon([(left, deck), *top, (right, deck)], colors.light)
    pen.polygon([(-0.95, deck), (0.7, deck), (0.95, deck + 0.15), (0.95, 0.38), (-0.95, 0.38)], colors.main)
    if rng.random() < 0.6:
        pen.box(-0.95, 0.13, 0.95, 0.21, colors.second)
    pen.ellipse(0.86, 0.1, 0.07, 0.07, colors.light)
    r = rng.uniform(0.19, 0.26)
    for x in (-0.52, 0.52):
        pen.ellipse(x, 0.38, r, r, colors.dark)
        pen.ellipse(x, 0.38, r / 2, r / 2, colors.light)


def fish(pen: Pen, rng: np.random.Generator, colors: Palette) -> None:
    """A body with fins and a tail, an eye, sometimes stripes."""
    height, tail = rng.uniform(0.32, 0.55), rng.uniform(0.28, 0.5)
    fin = rng.uniform(-0.25, 0.1)
    pen.polygon([(-0.4, 0), (-1, -tail), (-0.85, 0), (-1, tail)], colors.second)
    pen.polygon([(fin - 0.3, -height * 0.7), (fin, -height - 0.28), (fin + 0.35, -height * 0.7)], colors.second)
    pen.polygon([(fin - 0.1, height * 0.8), (fin - 0.1, height + 0.2), (fin + 0.2, height * 0.8)], colors.second)
    upper = arc(0.2, 0, 0.72, height, 180, 360)
    pen.polygon(upper + arc(0.2, 0, 0.72, height, 0, 180), colors.main)
    for k in range(int(rng.integers(0, 4))):
        x = -0.15 + 0.25 * k
        half = height * math.sqrt(max(0.0, 1 - ((x - 0.2) / 0.72) ** 2)) * 0.9
        pen.line([(x, -half), (x + 0.07, 0), (x, half)], 0.08, colors.second)
    pen.ellipse(0.62, -height * 0.25, 0.1, 0.1, colors.light)
    pen.ellipse(0.64, -height * 0.25, 0.05, 0.05, colors.dark)
    pen.line([(0.88, 0.1), (0.72, 0.13)], 0.04, colors.dark)


def house(pen: Pen, rng: np.random.Generator, colors: Palette) -> None:
    """Walls, a gable roof, a door and windows, sometimes a chimney."""
    wide, eaves = rng.uniform(0.6, 0.85), rng.uniform(-0.25, 0.0)
    ridge, flat = rng.uniform(-0.95, -0.7), rng.uniform(0, 0.4)
    if rng.random() < 0.6:
        pen.box(0.3, -0.95, 0.5, eaves, colors.dark)
    pen.box(-wide, eaves, wide, 0.85, colors.main)
    over = wide + 0.13
    pen.polygon([(-over, eaves), (-flat, ridge), (flat, ridge), (over, eaves)], colors.second)
    door = rng.uniform(-0.35, 0.35)
    pen.box(door - 0.14, 0.35, door + 0.14, 0.85, colors.dark)
    for x in (-wide * 0.62, wide * 0.62):
        for y in (0.15, 0.6) if rng.random() < 0.4 else (0.28,):
            if abs(x - door) > 0.3:
                pen.box(x - 0.15, y - 0.14, x + 0.15, y + 0.14, colors.light)
                pen.line([(x, y - 0.14), (x, y + 0.14)], 0.04, colors.dark)
                pen.line([(x - 0.15, y), (x + 0.15, y)], 0.04, colors.dark)


def key(pen: Pen, rng: np.random.Generator, colors: Palette) -> None:
    """A bow with a hole, a shaft and two to four teeth."""
    thick, r = rng.uniform(0.12, 0.17), rng.uniform(0.25, 0.34)
    pen.line([(-0.4, 0), (0.9, 0)], thick, colors.main)
    if rng.random() < 0.5:
        pen.line(arc(-0.6, 0, r, r), thick, colors.main)
    else:
        for x, y in ((-0.82, 0.0), (-0.52, -0.24), (-0.52, 0.24)):
            pen.line(arc(x, y, 0.18, 0.18), thick * 0.9, colors.main)
    pen.line([(-0.24, -0.13), (-0.24, 0.13)], thick * 0.7, colors.second)
    side = rng.choice([-1, 1])
    for x in np.linspace(0.86, 0.4, int(rng.integers(2, 5))):
        pen.line([(x, 0), (x, side * rng.uniform(0.22, 0.42))], 0.11, colors.main)


def mug(pen: Pen, rng: np.random.Generator, colors: Palette) -> None:
    """A cylinder seen slightly from above, with a handle, sometimes a band."""
    top, foot, rim = rng.uniform(0.5, 0.62), rng.uniform(0.4, 0.55), rng.uniform(0.1, 0.2)
    high = rng.uniform(0.6, 0.8)
    pen.line(arc(top - 0.02, 0.05, rng.uniform(0.32, 0.42), 0.36, -80, 80), rng.uniform(0.11, 0.16), colors.main)
    wall = [(-top, -high), *reversed(arc(0, high - rim, foot, rim, 0, 180)), (top, -high)]
    pen.polygon(wall, colors.main)
    if rng.random() < 0.6:
        y, half = rng.uniform(-0.3, 0.3), rng.uniform(0.06, 0.2)
        band = [*reversed(arc(0, y - half, top - 0.05, rim, 0, 180)), *arc(0, y + half, top - 0.06, rim, 0, 180)]
        pen.polygon(band, colors.second)
    pen.ellipse(0, -high, top, rim, colors.light)
    pen.ellipse(0, -high + 0.03, top - 0.09, rim - 0.05, colors.dark)


def mushroom(pen: Pen, rng: np.random.Generator, colors: Palette) -> None:
    """A stem under a cap with dots."""
    cap, rise, stem = rng.uniform(0.65, 0.9), rng.uniform(0.5, 0.9), rng.uniform(0.16, 0.28)
    foot = stem * rng.uniform(1.0, 1.6)
    pen.polygon([(-stem, 0), (stem, 0), (foot, 0.8), *arc(0, 0.8, foot, 0.1, 0, 180)], colors.light)
    if rng.random() < 0.5:
        pen.polygon([(-stem, 0.2), (stem, 0.2), (stem + 0.1, 0.36), (-stem - 0.1, 0.36)], colors.second)
    bulge = rng.uniform(0.08, 0.2)
    pen.polygon(arc(0, 0, cap, rise, 180, 360) + arc(0, 0, cap, bulge, 0, 180), colors.main)
    for _ in range(int(rng.integers(3, 8))):
        angle, reach, r = rng.uniform(3.3, 6.1), rng.uniform(0.2, 0.8), rng.uniform(0.05, 0.12)
        pen.ellipse(cap * reach * math.cos(angle), rise * reach * math.sin(angle), r * 1.2, r, colors.second)


def sailboat(pen: Pen, rng: np.random.Generator, colors: Palette) -> None:
    """A hull, a mast, a main sail and a jib."""
    bow, deck = rng.uniform(0.8, 0.98), rng.uniform(0.4, 0.5)
    mast, boom = rng.uniform(-0.1, 0.15), deck - rng.uniform(0.08, 0.16)
    pen.line([(mast, deck), (mast, -0.95)], 0.06, colors.dark)
    pen.polygon([(mast - 0.06, -0.88), (mast - 0.06, boom), (mast - rng.uniform(0.55, 0.75), boom)], colors.light)
    if rng.random() < 0.8:
        pen.polygon([(mast + 0.07, -0.8), (mast + 0.07, boom), (bow - 0.15, boom + 0.05)], colors.second)
    pen.polygon([(-0.85, deck), (bow, deck), (0.55, 0.85), (-0.65, 0.85)], colors.main)
    if rng.random() < 0.5:
        pen.line([(-0.8, deck + 0.12), (bow - 0.15, deck + 0.12)], 0.06, colors.second)


def tree(pen: Pen, rng: np.random.Generator, colors: Palette) -> None:
    """A trunk under a round crown, or under the tiers of a conifer."""
    trunk = rng.uniform(0.08, 0.16)
    pen.polygon([(-trunk, 0), (trunk, 0), (trunk * 1.4, 0.95), (-trunk * 1.4, 0.95)], colors.dark)
    if rng.random() < 0.5:
        tiers = int(rng.integers(3, 5))
        for k in range(tiers):
            half, y = 0.72 - 0.15 * k, 0.55 - 1.05 * k / tiers
            color = colors.main if k % 2 == 0 else colors.second
            pen.polygon([(-half, y), (half, y), (0, y - 0.65)], color)
    else:
        for k in range(int(rng.integers(5, 9))):
            angle, reach, r = rng.uniform(0, 6.3), rng.uniform(0.15, 0.4), rng.uniform(0.26, 0.42)
            color = colors.second if k % 3 == 2 else colors.main
            pen.ellipse(reach * 1.2 * math.cos(angle), -0.35 + reach * math.sin(angle), r, r, color)


def umbrella(pen: Pen, rng: np.random.Generator, colors: Palette) -> None:
    """A canopy of colored panels over a stick with a hooked handle."""
    rise, y, panels = rng.uniform(0.65, 0.85), rng.uniform(-0.1, 0.05), int(rng.integers(4, 7))
    pen.line([(0, y - rise - 0.12), (0, 0.75)], 0.07, colors.dark)
    hook = 0.15 * rng.choice([-1, 1])
    pen.line(arc(hook, 0.75, -hook, 0.16, 0, 180), 0.09, colors.dark)
    edges = np.linspace(-0.95, 0.95, panels + 1)
    for k, (left, right) in enumerate(pairwise(edges)):
        # A rib of the dome: a quarter of an ellipse that ends at x = edge
        rib_l = [(left * math.sin(a), y - rise * math.cos(a)) for a in np.linspace(0, math.pi / 2, 12)]
        rib_r = [(right * math.sin(a), y - rise * math.cos(a)) for a in np.linspace(math.pi / 2, 0, 12)]
        scallop = arc((left + right) / 2, y, (left - right) / 2, -0.09, 0, 180)
        pen.polygon(rib_l + scallop + rib_r, colors.main if k % 2 == 0 else colors.second)


SHAPES = {
    shape.__name__: shape for shape in (bicycle, car, fish, house, key, mug, mushroom, sailboat, tree, umbrella)
}
