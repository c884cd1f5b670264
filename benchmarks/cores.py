"""Which core runs what: the first has what is compared, and whatever that starts; the others have the rest."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def first() -> Iterator[None]:
    """Have the first core alone."""
    with _only({min(os.sched_getaffinity(0))}):
        yield


@contextmanager
def others() -> Iterator[None]:
    """Have the other ones, or the only one."""
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
