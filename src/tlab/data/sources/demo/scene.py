"""Puts a drawn object into a scene: background, clutter, pose, texture, shadow, occlusion, light and noise."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tlab.data.sources.demo.pen import Color, Palette, Pen
from tlab.data.sources.demo.shapes import SHAPES

_SUPERSAMPLING = 3  # objects are drawn three times as large and averaged down: smooth edges


def draw_scene(shape: str, size: int, rng: np.random.Generator) -> Image.Image:
    """Draw one object in a scene of its own.

    Args:
        shape: Name in `tlab.data.sources.demo.shapes.SHAPES`.
        size: Side S of the image, in pixels.
        rng: Generator of all random parameters; the image is a function of its state.

    Returns:
        An RGB image, S x S.
    """
    ground = _background(size, rng)
    _clutter(ground, rng)
    colors = _palette(np.asarray(ground, dtype=float).mean((0, 1)), rng)
    pen = Pen(size * _SUPERSAMPLING, _pose(size * _SUPERSAMPLING, rng))
    SHAPES[shape](pen, rng, colors)
    layer = pen.image.reduce(_SUPERSAMPLING)
    scene = _with_shadow(ground, layer.getchannel("A"), rng)
    scene.paste(_textured(layer, rng), mask=layer.getchannel("A"))
    if rng.random() < 0.15:
        _occlude(scene, rng)
    return _light(scene, rng)


def _color(rng: np.random.Generator, saturation: tuple[float, float] = (0.1, 0.9)) -> Color:
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(0.2, 1)
    rgb = [v - v * s * max(0.0, min(k := (n + hue) % 6, 4 - k, 1.0)) for n in (5, 3, 1)]
    return tuple(round(255 * x) for x in rgb)


def _palette(ground: np.ndarray, rng: np.random.Generator) -> Palette:
    """Draw colors that stand out from the mean color of the ground (3 floats, 0..255)."""
    candidates = [_color(rng, (0.3, 1.0)) for _ in range(12)]
    candidates.sort(key=lambda color: -float(np.abs(np.asarray(color) - ground).sum()))
    main, second = candidates[int(rng.integers(0, 3))], candidates[int(rng.integers(3, 7))]
    dark, light = int(rng.integers(15, 70)), int(rng.integers(185, 250))
    tint = rng.integers(-15, 16, size=3)
    grays = [np.clip(level, 0, 255).tolist() for level in (dark + tint, light - tint)]
    return Palette(main, second, *map(tuple, grays))


def _pose(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a 2 x 3 map from object coordinates to pixels: scale, rotation, shear, mirror and shift."""
    scale = side / 2 * rng.uniform(0.75, 0.98)
    angle, shear = rng.normal(0, 0.1), rng.normal(0, 0.07)
    stretch, mirror = math.exp(rng.normal(0, 0.1)), rng.choice([-1, 1])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = scale * turn @ np.array([[mirror * stretch, shear], [0, 1 / stretch]])
    room = max(0.0, side / 2 - 0.85 * scale)
    center = side / 2 + rng.uniform(-room, room, size=2)
    return np.column_stack([linear, center])


def _smooth_noise(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a field S S, float32, in about 0..1 that varies over 1 / cells of the image."""
    grid = Image.fromarray(rng.integers(0, 256, size=(cells + 1, cells + 1), dtype=np.uint8))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255


def _waves(size: int, periods: float, sharp: bool, rng: np.random.Generator) -> np.ndarray:
    """Draw stripes S S in 0..1 at a random angle."""
    y, x = np.mgrid[:size, :size] / size
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
    wave = np.sin(2 * math.pi * periods * (x * math.cos(angle) + y * math.sin(angle)) + phase)
    return (wave > 0).astype(np.float32) if sharp else (wave / 2 + 0.5).astype(np.float32)


def _background(size: int, rng: np.random.Generator) -> Image.Image:
    """Draw one of six grounds in two random colors: ramp, clouds, stripes, checks, horizon, grain."""
    kind = rng.choice(["ramp", "clouds", "stripes", "checks", "horizon", "grain"])
    if kind == "ramp":
        mix = _waves(size, 0.35, False, rng)
    elif kind == "clouds":
        mix = 0.6 * _smooth_noise(size, 4, rng) + 0.4 * _smooth_noise(size, 11, rng)
    elif kind == "stripes":
        mix = _waves(size, rng.uniform(2, 9), bool(rng.random() < 0.5), rng)
    elif kind == "checks":
        mix = np.abs(_waves(size, rng.uniform(2, 6), True, rng) - _waves(size, rng.uniform(2, 6), True, rng))
    elif kind == "horizon":
        rows = np.arange(size)[:, None] > size * rng.uniform(0.35, 0.8)
        mix = np.broadcast_to(rows, (size, size)) * 0.8 + 0.2 * _smooth_noise(size, 8, rng)
    else:
        mix = 0.5 * _smooth_noise(size, 3, rng) + 0.5 * rng.random((size, size), dtype=np.float32)
    first, second = np.asarray(_color(rng, (0.0, 0.4))), np.asarray(_color(rng, (0.0, 0.4)))
    second = first + (second - first) * rng.uniform(0.1, 0.35)
    return _to_image(first + (second - first) * mix[..., None])


def _clutter(ground: Image.Image, rng: np.random.Generator) -> None:
    """Strew up to three small lines, discs and triangles over the ground."""
    draw, size = ImageDraw.Draw(ground), ground.width
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0, size, size=2)
        r, color, kind = size * rng.uniform(0.02, 0.08), _color(rng), rng.integers(0, 3)
        if kind == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
        elif kind == 1:
            dx, dy = 2.5 * r * rng.normal(size=2)
            draw.line((x, y, x + dx, y + dy), fill=color, width=int(rng.integers(1, 4)))
        else:
            draw.polygon([(x + r * rng.normal(), y + r * rng.normal()) for _ in range(3)], fill=color)


def _with_shadow(ground: Image.Image, alpha: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Let the object's outline (L) darken the ground, shifted and blurred."""
    dx, dy = (int(v) for v in rng.integers(-6, 7, size=2))
    soft = alpha.filter(ImageFilter.GaussianBlur(rng.uniform(1, 4)))
    strength = rng.uniform(0, 0.6)
    soft = soft.point([round(strength * v) for v in range(256)])
    shadow = Image.new("L", alpha.size)
    shadow.paste(soft, (dx, dy))
    return Image.composite(Image.new("RGB", ground.size), ground, shadow)


def _textured(layer: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Shade the object's surface: smooth shading, then grain, stripes or nothing."""
    size, kind = layer.width, rng.integers(0, 3)
    shade = 1 + rng.uniform(0, 0.5) * (_waves(size, 0.4, False, rng) - 0.5)
    if kind == 0:
        shade = shade + rng.uniform(0.05, 0.3) * (_smooth_noise(size, int(rng.integers(8, 30)), rng) - 0.5)
    elif kind == 1:
        shade = shade + rng.uniform(0.05, 0.2) * (_waves(size, rng.uniform(6, 20), False, rng) - 0.5)
    return _to_image(np.asarray(layer.convert("RGB"), dtype=np.float32) * shade[..., None])


def _occlude(scene: Image.Image, rng: np.random.Generator) -> None:
    """Hide a part behind a bar or a disc."""
    draw, size, color = ImageDraw.Draw(scene), scene.width, _color(rng)
    if rng.random() < 0.5:
        a, b = rng.uniform(0, size, size=2)
        ends = (a, 0, b, size) if rng.random() < 0.5 else (0, a, size, b)
        draw.line(ends, fill=color, width=round(size * rng.uniform(0.04, 0.12)))
    else:
        x, y, r = *rng.uniform(0.2 * size, 0.8 * size, size=2), size * rng.uniform(0.08, 0.17)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)


def _light(scene: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light the scene unevenly, give it a cast, a gamma, sensor noise and sometimes a blur."""
    if rng.random() < 0.25:
        scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    x = np.asarray(scene, dtype=np.float32) / 255
    x = x ** rng.uniform(0.7, 1.5) * rng.uniform(0.9, 1.1, size=3)
    x = x * (1 + rng.uniform(0, 0.6) * (_waves(scene.width, 0.3, False, rng)[..., None] - 0.5))
    x = x + rng.normal(0, rng.uniform(0.005, 0.025), size=x.shape)
    return _to_image(255 * x)


def _to_image(x_HWC: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.round(x_HWC), 0, 255).astype(np.uint8))
