"""What every test of the ring uses: names of its own, and nothing left behind."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bitcoin_sprint.ring import Writer
from bitcoin_sprint.ring.layout import SHARED_MEMORY

_numbers = itertools.count()


@pytest.fixture
def instance() -> Iterator[str]:
    """A name that no other test uses; objects under it are removed afterwards."""
    name = f"ringtest-{os.getpid()}-{next(_numbers)}"
    yield name
    for path in SHARED_MEMORY.glob(f"sprint.{name}.*"):
        path.unlink()


@pytest.fixture
def make_writer(instance: str) -> Iterator[Callable[..., Writer]]:
    """Writers of the test's instance, small unless told otherwise; closed afterwards."""
    made: list[Writer] = []

    def make(name: str = "blocks", **options: Any) -> Writer:
        writer = Writer.create(
            instance, name, **{"slot_count": 16, "arena_bytes": 1 << 16, **options}
        )
        made.append(writer)
        return writer

    yield make
    for writer in made:
        writer.close()


@pytest.fixture
def writer(make_writer: Callable[..., Writer]) -> Writer:
    """A small ring: 16 slots, 64 KiB."""
    return make_writer()
