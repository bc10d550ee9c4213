"""Looks at what others do, in a thread that ends with the block."""

import threading

from tlab.sweeps import monitor


def test_it_looks_again_until_the_block_ends(monkeypatch):
    monkeypatch.setattr(monitor, "EVERY", 0.001)
    before = threading.active_count()
    twice = threading.Semaphore(0)
    with monitor.polling(twice.release):
        assert all(twice.acquire(timeout=60) for _ in range(2))
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
