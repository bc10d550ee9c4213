"""Makes the runs that `tests/test_old_runs.py` continues, with the Python of the version that is to write them:

    cd CHECKOUT_OF_7cb74a4 && .venv/bin/python .../tests/old_runs/make.py .../tests/old_runs/7cb74a4.tar.xz

Images, weights and runs go into one archive, with `made.json`, which says where and on what they were made. Only a
few channels of the network are not zero, and zeros stay zeros in training, so the checkpoints take little space.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

ALIVE = 8  # channels, of 64
IMAGES = {"train": 4, "val": 2, "test": 2}  # of each class
CLASSES = ("red", "green", "blue")

COMMON = [
    *("data.root=photos", "data.image_size=32", "data.batch_size=4", "data.num_workers=0", "logger=none"),
    *("backbone=resnet18", "backbone.upto=layer1", "backbone.weights=weights.pth", "trainer=cpu"),
    *("trainer.precision=32-true", "checkpoint.every_n_steps=1", "features.views=2"),
]
GRADUAL = ["finetune=gradual", "finetune.head_epochs=2", "trainer.max_epochs=6", "optimizer.lr=0.1"]
STOPPING = [
    *("finetune=lp_ft", "finetune.head_epochs=1", "finetune.ema=0.9", "trainer.max_epochs=4", "head=mlp"),
    *("trainer.early_stopping=3", "optimizer=adamw", "scheduler=plateau", "aug=strong", "head.hidden=[8]"),
    "optimizer.lr=0.02",
]
SWEEP = ["-m", "finetune=head", "trainer.max_epochs=2", "optimizer.lr=0.1,0.01", "seed=0,1", "sweep=old"]

# Directory -> its command, and at which checkpoint (one after each of three steps an epoch) which signal stops it
RUNS = {
    "gradual/whole": (GRADUAL, None),
    "gradual/head": (GRADUAL, (4, signal.SIGKILL)),  # inside the second epoch
    "gradual/layer1": (GRADUAL, (9, signal.SIGKILL)),  # between two epochs
    "gradual/stem": (GRADUAL, (14, signal.SIGTERM)),  # inside the last epoch but one; it saves once more
    "stopping/whole": (STOPPING, None),
    "stopping/all": (STOPPING, (8, signal.SIGKILL)),
}


def arithmetic() -> str:
    """Return a digest of one step of a small network, which is the same where torch computes the same bits."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3)),
    ).to(memory_format=torch.channels_last)
    images_BCHW = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    nn.functional.cross_entropy(net(images_BCHW), torch.tensor([0, 1, 2, 0])).backward()
    gradients = b"".join(parameter.grad.contiguous().numpy().tobytes() for parameter in net.parameters())
    return hashlib.sha256(gradients).hexdigest()


def draw_images(root: Path) -> None:
    """Write `root/<split>/<class>/<i>.png`: 42 x 36 px in blocks of random colours, of which one has more."""
    rng = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for channel, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                blocks = rng.integers(0, 160, (6, 7, 3))
                blocks[..., channel] += 60
                Image.fromarray(blocks.repeat(6, 0).repeat(6, 1).astype(np.uint8)).save(folder / f"{i}.png")


def write_weights(file: Path) -> None:
    """Write random weights for ResNet-18 up to layer1, of which the channels from `ALIVE` on are zero."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    state = {key: value for key, value in state.items() if key.startswith(("conv1.", "bn1.", "layer1."))}
    for key, value in state.items():
        if value.ndim and not key.endswith("running_var"):
            value[ALIVE:] = 0
        if value.ndim == 4 and value.shape[1] == 64:
            value[:, ALIVE:] = 0
    torch.save(state, file)


def train(arguments: list[str], stop: tuple[int, int] | None) -> None:
    """Carry out a command, and let a signal stop it right after its n-th checkpoint."""
    from tlab.runs.checkpoints import LastCheckpoint
    from tlab.train import main

    save, saved = LastCheckpoint.save, 0

    def save_and_stop(self: LastCheckpoint, trainer: object) -> None:
        nonlocal saved
        save(self, trainer)
        saved += 1
        if stop is not None and saved == stop[0]:
            os.kill(os.getpid(), stop[1])

    LastCheckpoint.save = save_and_stop
    sys.argv = ["tlab.train", *arguments]
    main()


def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Forget who made it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def make(archive: Path) -> None:
    """Make everything and pack it."""
    with tempfile.TemporaryDirectory(prefix="tlab_runs_") as folder, tempfile.TemporaryDirectory() as cache:
        os.environ |= {"TLAB_CACHE": cache, "OMP_NUM_THREADS": "1", "TLAB_CORES": "1"}
        os.chdir(folder)
        torch.set_num_threads(1)
        draw_images(Path("photos"))
        write_weights(Path("weights.pth"))
        commands = {f"hydra.run.dir={name}": run for name, run in RUNS.items()} | {"sweep=old": (SWEEP, None)}
        for place, (command, stop) in commands.items():
            arguments = [*command, *COMMON, *([] if place in command else [place])]
            process = multiprocessing.get_context("spawn").Process(target=train, args=(arguments, stop))
            process.start()
            process.join()
            expected = {None: 0, signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM}
            assert process.exitcode == expected[stop and stop[1]], (place, process.exitcode)
        Path("outputs/multirun/old/report.html").unlink()  # nobody reads it again, and it is large
        made = {
            "place": folder,
            "torch": torch.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "arithmetic": arithmetic(),
        }
        Path("made.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            tar.add(".", filter=without_owner)


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute())
