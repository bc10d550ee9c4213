import cv2
import numpy as np
import pytest

from tlab.audit import OWN_KEYS, audit
from tlab.config.hydra import compose
from tlab.config.run_overrides import gather

QUICK = ("backbone=mobilenet_v3_small", "backbone.weights=bundled", "data.image_size=48", "trainer=cpu")


@pytest.fixture(scope="session")
def scene():
    """A function that draws a picture of many shapes, uint8 H W 3, the same for a seed at every size."""

    def draw(seed: int, side: int = 160, tint: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(40, 200, (5, 5, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        for _ in range(30):
            x, y, radius = (rng.random(3) * (side, side, side / 8)).astype(int).tolist()
            cv2.circle(image, (x, y), radius + 2, rng.integers(0, 255, 3).tolist(), -1)
        image = image.astype(np.int64)
        image[..., 0] += tint
        image[..., 2] -= tint
        return image.clip(0, 255).astype(np.uint8)

    return draw


@pytest.fixture
def audited(tmp_path, capsys):
    """A function that carries out `tlab.audit` with the arguments, and returns the audit and what was printed."""

    def run(*arguments: str):
        found = audit(compose(gather([*arguments, *QUICK], OWN_KEYS, "tlab.audit"), "audit"), tmp_path / "audit")
        return found, capsys.readouterr().out

    return run
