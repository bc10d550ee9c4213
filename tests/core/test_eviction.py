"""Stores: one writer at a time, and room made by removing what was used longest ago."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tlab.core.eviction import LEFT_OVER, evict, free_bytes, open_locked, size_of, touch
from tlab.core.files import cache_dir

HOLDER = """
import sys, time
from pathlib import Path
from tlab.core.eviction import open_locked
with open_locked(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
    Path(sys.argv[1]).write_text("made")
"""

REMEMBERER = """
import sys
from tlab.core.measurements import measurements
for i in range(50):
    with measurements("speeds") as known:
        known[f"{sys.argv[1]}.{i}"] = {"i": i}
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"XDG_CACHE_HOME": "/var/cache/me"}, Path("/var/cache/me/tlab")),
        ({"XDG_CACHE_HOME": "/var/cache/me", "TLAB_CACHE": "~/mine"}, Path.home() / "mine"),
        ({}, Path.home() / ".cache/tlab"),
        ({"XDG_CACHE_HOME": ""}, Path.home() / ".cache/tlab"),
        ({"XDG_CACHE_HOME": "caches"}, Path.home() / ".cache/tlab"),
    ],
)
def test_the_cache_lies_where_the_environment_says(monkeypatch, given, expected):
    for name in ("TLAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == expected


def entry(folder: Path, name: str, size: int, used: float) -> Path:
    path = folder / name
    if name.endswith("/"):
        path.mkdir(parents=True)
        (path / "data").write_bytes(bytes(size))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    os.utime(path, (used, used))
    return path


def test_the_least_recently_used_go_first(tmp_path):
    old, folder_, new = (entry(tmp_path, name, 100, used) for name, used in (("a", 1), ("b/", 2), ("c", 3)))
    evict(tmp_path, 300)
    touch(old)
    assert [path.exists() for path in (old, folder_, new)] == [True, True, True]
    evict(tmp_path, 250)
    assert [path.exists() for path in (old, folder_, new)] == [True, False, True]
    evict(tmp_path, 0, keep=[new])
    assert [path.exists() for path in (old, folder_, new)] == [False, False, True]
    evict(tmp_path / "nowhere", 0)


def test_left_over_temporaries_go_after_a_day_and_locks_stay(tmp_path):
    now = time.time()
    stale = entry(tmp_path, ".x.tmp", 10, now - LEFT_OVER - 60)
    fresh = entry(tmp_path, ".y.tmp", 10, now)
    lock = entry(tmp_path, ".x.lock", 0, 1)
    evict(tmp_path, 0)
    assert [path.exists() for path in (stale, fresh, lock)] == [False, True, True]


def test_another_process_waits_and_finds_what_was_made(tmp_path):
    target = tmp_path / "store"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "in\n"
    assert not target.exists()
    holder.stdin.write("\n")
    holder.stdin.flush()
    with open_locked(target):
        assert target.read_text() == "made"
    assert holder.wait() == 0


def test_what_several_processes_remember_is_all_kept(tmp_path):
    command = [sys.executable, "-c", REMEMBERER]
    environment = {**os.environ, "TLAB_CACHE": str(tmp_path)}
    processes = [subprocess.Popen([*command, str(number)], env=environment) for number in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    kept = json.loads((tmp_path / "speeds.json").read_text())
    assert kept == {f"{number}.{i}": {"i": i} for number in range(3) for i in range(50)}


def test_a_killed_holder_leaves_no_lock_behind(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "store")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "in\n"
    holder.kill()
    holder.wait()
    with open_locked(tmp_path / "store"):
        pass


def test_sizes(tmp_path):
    assert size_of(entry(tmp_path, "f", 12, 1)) == 12
    assert size_of(entry(tmp_path, "d/", 30, 1)) == 30
    assert free_bytes(tmp_path / "not" / "yet") > 0
