"""Draw scenes as pictures."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from ingest.demo.scenes import elsewhere, outdoors
from ingest.demo.scenes.backdrops import BACKDROPS, SKIES, View, rain, sky
from ingest.demo.scenes.pen import PAINT, RGB, Pen, mix
from ingest.demo.scenes.world import KINDS, SIZES, Dice, Scene, Thing

THINGS: dict[str, Callable[[Pen, RGB], None]] = {**outdoors.THINGS, **elsewhere.THINGS}
FLOATING_ON_WATER = ("boat", "duck", "whale", "submarine")


def paint(scene: Scene, supersample: int = 2) -> Image.Image:
    """Return the picture of a scene: RGB, `scene.width` by `scene.height` pixels.

    It is drawn `supersample` times as large and scaled down, which smooths the edges.
    """
    canvas = Image.new("RGB", (scene.width * supersample, scene.height * supersample))
    view = View(canvas, scene, Dice("details", scene.seed, scene.number))
    if scene.mood in SKIES:
        sky(view)
    BACKDROPS[scene.setting](view)
    for thing in sorted(scene.things, key=lambda thing: (not thing.above, thing.y)):
        _place(view, thing)
    if scene.mood == "rainy":
        rain(view)
    return canvas.reduce(supersample) if supersample > 1 else canvas


def _place(view: View, thing: Thing) -> None:
    height = KINDS[thing.kind].height * SIZES[thing.size]
    on_ground = not thing.above and view.scene.setting not in ("underwater", "space")
    if on_ground and view.scene.setting != "sea":
        _shadow(view, thing, height)
    THINGS[thing.kind](view.pen(thing.x, thing.y, height, thing.flipped), PAINT[thing.colour])
    if on_ground and view.scene.setting == "sea" and thing.kind in FLOATING_ON_WATER:
        _ripple(view, thing, height)


def _shadow(view: View, thing: Thing, height: float) -> None:
    """Draw a shadow below a thing, so that it seems to stand rather than hover."""
    half = 0.5 * KINDS[thing.kind].width / KINDS[thing.kind].height
    x, y = round(thing.x * view.width), round(thing.y * view.height)
    ground = view.canvas.getpixel((min(view.width - 1, max(0, x)), min(view.height - 1, y + 2)))
    assert isinstance(ground, tuple)  # every pixel of an RGB canvas is a tuple
    colour = mix((ground[0], ground[1], ground[2]), (20, 20, 40), 0.3)
    view.pen(thing.x, thing.y, height).oval(-half, -0.05, half, 0.06, colour)


def _ripple(view: View, thing: Thing, height: float) -> None:
    """Draw a wave that hides the bottom of a floating thing."""
    half = 0.55 * KINDS[thing.kind].width / KINDS[thing.kind].height
    pen = view.pen(thing.x, thing.y, height)
    pen.oval(-half, -0.06, half, 0.06, view.lit((96, 166, 214)))
    pen.oval(-half * 0.8, -0.05, half * 0.8, 0.02, view.lit((150, 204, 232)))
