"""Drawings of the site, made by tlab itself when it is built, so that they show what the code does.

mkdocs calls `on_page_markdown` for each page; `<!-- plans -->` stands for the six plans, `<!-- views -->` for
images in one epoch after another.
"""

import base64
import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tlab.config.hydra import compose

if TYPE_CHECKING:
    from tlab.finetuning.plan import Plan

PLANS = ("head", "lp_ft", "gradual", "last", "full", "scratch")
EPOCHS = 8
CELL, LEFT, TOP = (26, 20), 58, 40  # pixels
INK = "var(--md-default-fg-color)"  # the theme's, so that light and dark both read
BRIGHT = "var(--md-typeset-a-color)"
IMAGES = (("mug", 3), ("bicycle", 1), ("fish", 7))  # shape and number of the drawn images
SIDE, VIEWED = 96, 5  # pixels, epochs


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the drawings in the places of their markers."""
    for name, draw in (("plans", plans), ("views", views)):
        if (marker := f"<!-- {name} -->") in markdown:
            markdown = markdown.replace(marker, draw())
    return markdown


def plans() -> str:
    """Return a drawing of each plan: which stages of a ResNet-18 train in which epoch, at which rate."""
    figures = (f"<figure>{draw_plan(name, plan_of(name))}</figure>" for name in PLANS)
    return f'<div class="plans">\n{"".join(figures)}\n</div>'


def plan_of(name: str) -> "Plan":
    """Return the plan `finetune=NAME` over the stages of a ResNet-18, as a run would carry it out."""
    from tlab.assembly.build import make_plan

    own = ["backbone.weights=null"] if name == "scratch" else []
    cfg = compose([f"finetune={name}", f"trainer.max_epochs={EPOCHS}", "data.root=photos", "run_dir=run", *own])
    stages = SimpleNamespace(stage_names=[*cfg.backbone.stages])  # all that a plan asks of a backbone
    return make_plan(cfg, stages)  # type: ignore[arg-type]


def draw_plan(name: str, plan: "Plan") -> str:
    """Return a plan as SVG: a row for each group, a column for each epoch, stronger for a higher rate."""
    groups = [*plan.group_scales]
    width, height = LEFT + CELL[0] * EPOCHS + 4, TOP + CELL[1] * len(groups) + 4
    marks = [f'<text x="0" y="14" font-weight="bold">finetune={name}</text>']
    ends = [*plan.starts[1:], plan.epochs]
    for phase, start, end in zip(plan.phases, plan.starts, ends, strict=True):
        scales = plan.rate_scales(phase)
        x = LEFT + CELL[0] * start
        if not phase.solved and phase.name in (phase.key, f"{phase.key}/layer4"):
            marks.append(f'<text x="{x}" y="33" opacity=".7">{phase.key}</text>')
        for row, group in enumerate(groups):
            y, trains = TOP + CELL[1] * row, group in phase.trained
            strength = 1.0 if phase.solved else scales[group] ** 0.4
            fill = f'fill="{BRIGHT}" fill-opacity="{strength:.2f}"' if trains else 'fill="none"'
            told = "solved for its optimum" if trains and phase.solved else f"rate x {scales[group]:.2g}"
            for epoch in range(start, end):
                marks.append(
                    f'<rect x="{LEFT + CELL[0] * epoch + 1}" y="{y + 1}" width="{CELL[0] - 2}" '
                    f'height="{CELL[1] - 2}" rx="3" {fill} stroke="{INK}" stroke-opacity=".35">'
                    f"<title>epoch {epoch}, {group}: {told if trains else 'frozen'}</title></rect>"
                )
    for row, group in enumerate(groups):
        marks.append(f'<text x="{LEFT - 8}" y="{TOP + CELL[1] * row + 14}" text-anchor="end">{group}</text>')
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="Plan {name}" '
        f'font-size="12" fill="{INK}">{"".join(marks)}</svg>'
    )


def views() -> str:
    """Return drawn images as `aug=strong` gives them: a row for each, a column for each epoch."""
    import numpy as np
    from hydra.utils import instantiate
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

    from tlab.data.augment.compose import Compose
    from tlab.data.sampler import addressed_seed
    from tlab.data.sources.demo.scene import draw_scene

    cfg = compose(["aug=strong", f"data.image_size={SIDE}", "data.root=photos", "run_dir=run"])
    augment = Compose(instantiate(cfg.aug.transforms, _convert_="all"))
    pitch = SIDE + 4
    grid = Image.new("RGB", (VIEWED * pitch + SIDE, len(IMAGES) * pitch - 4), "gray")
    for row, (shape, number) in enumerate(IMAGES):
        image = draw_scene(shape, SIDE, np.random.default_rng(number))
        grid.paste(image, (0, row * pitch))
        for epoch in range(VIEWED):
            seen = augment(pil_to_tensor(image), addressed_seed(0, "augment", epoch, row, 0))
            grid.paste(to_pil_image(seen), ((epoch + 1) * pitch, row * pitch))
    file = io.BytesIO()
    grid.save(file, "JPEG", quality=85)
    text = "Three drawn images, each as it is and in the first five epochs with aug=strong"
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{text}" src="data:image/jpeg;base64,{data}" width="{grid.width}">'
