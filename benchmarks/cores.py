"""The cores: the first runs the program that is measured and its children, the others run the rest."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def first() -> Iterator[None]:
    """Run on the first core alone."""
    with _only({min(os.sched_getaffinity(0))}):
        yield


@contextmanager
def others() -> Iterator[None]:
    """Run on the other cores, or on the only one."""
    have = os.sched_getaffinity(0)
    with _only(have - {min(have)} or have):
        yield


@contextmanager
def _only(cores: set[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
