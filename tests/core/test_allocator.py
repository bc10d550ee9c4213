"""Memory that a step frees is there for the next one."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from tlab.core.hardware import keep_freed_memory
if "keep" in sys.argv: keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    held = [torch.full((4 << 20,), 1.0) for _ in range(4)]  # 16 MB each
    del held
before = faults()
held = [torch.full((4 << 20,), 1.0) for _ in range(4)]
print(faults() - before)
"""
PAGES = 4 * (16 << 20) // 4096


def page_faults(*arguments: str, **environment: str) -> int:
    command = [sys.executable, "-c", FAULTS, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, env=os.environ | environment).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_kept() -> None:
    assert page_faults("keep") < 0.1 * PAGES


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_settings_in_the_environment_stand() -> None:
    given = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    assert page_faults("keep", **given) > 0.9 * PAGES
