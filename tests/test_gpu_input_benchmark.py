"""The benchmark of the ways to a GPU runs, also where there is none."""

from pathlib import Path

import torch

from gpu_input import WAYS, loader_of, measure, parse


def test_every_way_is_measured_and_is_what_it_says(photos: Path) -> None:
    small = ["--image-size", "32", "--batch-size", "8", "--num-workers", "0", "--arch", "squeezenet1_1"]
    args = parse(["--root", str(photos), *small, "--steps", "1", "--warm-up", "1", "--rounds", "1"])
    found = measure(args, torch.device("cpu"))
    assert list(found) == ["limit", *WAYS]
    assert min(speed for speeds in found.values() for speed in speeds) > 0
    loaders = {name: loader_of(way, args, torch.device("cpu")) for name, way in WAYS.items()}
    assert [name for name, loader in loaders.items() if loader.images.store] == ["plain", "ahead", "device"]
    assert [name for name, loader in loaders.items() if loader.images.leaves_decoding] == ["nvjpeg"]
    assert [name for name, loader in loaders.items() if loader.device is None] == ["plain"]
