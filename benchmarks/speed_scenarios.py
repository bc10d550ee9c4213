"""What the speed benchmark compares: which training, by whom, and the ratio that tlab wants to reach."""

from dataclasses import dataclass, field, replace

PEERS = ("lightning", "fastai", "timm", "tutorial", "reference")
SEEDS = 3  # rounds of a scenario by default; each has a seed of its own


@dataclass(frozen=True)
class Scenario:
    """One training that every system carries out as a whole command in a fresh process.

    Attributes:
        name: What --only takes.
        title: A row's text in the table.
        systems: tlab, the peers, `limit` (the model alone, and decoding alone) and `sweep` (12 runs of tlab).
        arch: Architecture, in torchvision's names.
        image_size: Side in pixels.
        epochs: Number of them; validation after each.
        plan: What trains: head, layer4 (and the head) or full.
        aug: none, light or strong.
        views: tlab's features.views.
        measure: `wall`, the seconds of the whole command, or `speed`, images per second of the training part.
        bars: System -> the ratio to reach. With a peer the ratio says how many times faster tlab is; with `limit`
            it is tlab's share of the limit (of `speed`), or how many times the least possible seconds (of `wall`)
            its training part takes; with `sweep`, how many times one run the sweep takes.
        batch_size: Of all of them.
        precision: Of the peers, and of tlab where it is bf16; where it is fp32 tlab chooses, as for its users.
        copies: How often each image is repeated, so that epochs at small sizes are long enough to measure.
        budget: Seconds that `limit` measures each kind of work in each of its rounds.
    """

    name: str
    title: str
    systems: tuple[str, ...]
    arch: str = "resnet18"
    image_size: int = 224
    epochs: int = 20
    plan: str = "head"
    aug: str = "none"
    views: int | None = None
    measure: str = "wall"
    bars: dict[str, float] = field(default_factory=dict)
    batch_size: int = 32
    precision: str = "fp32"
    copies: int = 1
    budget: float = 1.0


ALL = ("tlab", "lightning", "fastai", "timm", "tutorial")
HEAD = {"lightning": 10.0, "fastai": 10.0, "tutorial": 8.0}
TITLES = {"resnet18": "ResNet-18", "resnet50": "ResNet-50"}
FULL_BARS = {"lightning": 1.6, "limit": 0.95}

FULL = [
    Scenario("head", "head, ResNet-18, 224 px, 20 epochs", (*ALL, "limit"), bars={**HEAD, "limit": 1.25}),
    Scenario(
        "head_vgg16",
        "head, VGG16, 224 px, 10 epochs",
        ("tlab", "lightning", "fastai", "tutorial"),
        arch="vgg16",
        epochs=10,
        bars={"lightning": 8.0, "fastai": 8.0, "tutorial": 8.0},
    ),
    Scenario(
        "head_light",
        "head, ResNet-18, 224 px, 20 epochs, aug=light, 4 views",
        ALL,
        aug="light",
        views=4,
        bars={"lightning": 4.0, "fastai": 4.0, "tutorial": 4.0},
    ),
    Scenario(
        "layer4",
        "layer4 and head, ResNet-18, 224 px, 10 epochs",
        ALL,
        epochs=10,
        plan="layer4",
        bars={"lightning": 3.0},
    ),
    *(
        Scenario(
            f"full_{arch}_{size}",
            f"full, {TITLES[arch]}, {size} px, images/s",
            ("tlab", "lightning", "timm", "tutorial", "limit"),
            arch=arch,
            image_size=size,
            epochs=8,  # few, but enough for the decoded images to be kept
            plan="full",
            aug="light",
            measure="speed",
            bars=FULL_BARS if size == 224 else {"limit": 0.85},
            copies=1 if size == 224 else 4,
        )
        for size in (224, 64)
        for arch in ("resnet18", "resnet50")
    ),
    Scenario("sweep", "12 runs over rate and decay, head, 20 epochs", ("tlab", "sweep"), bars={"sweep": 1.6}),
]

# Small enough for a few minutes in all: what is to be seen is that it works, and roughly where tlab stands.
QUICK = [
    replace(
        FULL[0],
        name="quick_head",
        title="head, ResNet-18, 64 px, 10 epochs",
        image_size=64,
        epochs=10,
        bars={},
        budget=0.3,
    ),
    Scenario(
        "quick_head_light",
        "head, ResNet-18, 64 px, 10 epochs, aug=light, 4 views",
        ("tlab", "lightning"),
        image_size=64,
        epochs=10,
        aug="light",
        views=4,
    ),
    Scenario(
        "quick_layer4",
        "layer4 and head, ResNet-18, 64 px, 5 epochs",
        ("tlab", "lightning"),
        image_size=64,
        epochs=5,
        plan="layer4",
    ),
    Scenario(
        "quick_full",
        "full, ResNet-18, 64 px, images/s",
        ("tlab", "lightning", "limit"),
        image_size=64,
        epochs=3,
        plan="full",
        aug="light",
        measure="speed",
        budget=0.3,
    ),
    Scenario(
        "quick_sweep", "12 runs over rate and decay, head, 5 epochs", ("tlab", "sweep"), image_size=64, epochs=5
    ),
]

GPU = [
    Scenario(
        f"gpu_{arch}",
        f"full, {TITLES[arch]}, 224 px, bf16, images/s",
        ("tlab", "timm", "reference", "limit"),
        arch=arch,
        epochs=4,
        plan="full",
        aug="light",
        measure="speed",
        bars={"limit": 0.95},
        batch_size=128,
        precision="bf16",
        copies=64,
    )
    for arch in ("resnet18", "resnet50")
]

SIZES = {"quick": QUICK, "full": FULL, "gpu": GPU}
