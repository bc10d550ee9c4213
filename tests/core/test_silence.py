"""What a library says is not heard inside, is heard outside, and nothing of it stays."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from tlab.core.silence import Silence

NAME = "a.library"


class OfLibrary(UserWarning):
    """A category of its own."""


def say():
    logging.getLogger(NAME).error("heard")
    warnings.warn_explicit("heard", RuntimeWarning, "library.py", 1, module=NAME)
    warnings.warn("heard", OfLibrary, stacklevel=1)


def test_it_is_silent_inside_and_heard_outside(caplog):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("ignore", OfLibrary)  # as a user may, who keeps it
        warnings.simplefilter("always")
        before = list(warnings.filters)
        silence = Silence(NAME, OfLibrary)
        with silence, silence:
            say()
            with pytest.warns(RuntimeWarning, match="another"):
                warnings.warn("another's", RuntimeWarning, stacklevel=1)
        assert not heard
        assert not caplog.records
        assert warnings.filters == before
        say()
    assert [each.category for each in heard] == [RuntimeWarning, OfLibrary]
    assert len(caplog.records) == 1


def test_the_last_of_several_threads_restores_what_was(caplog):
    silence, both, before = Silence(NAME, OfLibrary), Barrier(2, timeout=60), list(warnings.filters)

    def use(_):
        with silence:
            both.wait()
            say()
        both.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(use, range(2)))
    assert not caplog.records
    assert warnings.filters == before
    assert not logging.getLogger(NAME).filters


def test_nothing_stays_where_others_enter_inside_and_leave_later():
    silence, before = Silence(NAME, OfLibrary), list(warnings.filters)
    others = warnings.catch_warnings()
    silence.__enter__()
    others.__enter__()
    silence.__exit__()
    assert warnings.filters == before
    others.__exit__()
    assert warnings.filters == before
