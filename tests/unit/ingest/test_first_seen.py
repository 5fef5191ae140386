"""Bounded memories of hashes."""

from __future__ import annotations

import pytest

from bitcoin_sprint.ingest.first_seen import BoundedMap, SeenSet


def test_a_hash_is_new_once() -> None:
    seen = SeenSet(2)
    assert seen.add(b"a")
    assert not seen.add(b"a")
    assert b"a" in seen
    seen.discard(b"a")
    assert b"a" not in seen


def test_the_first_added_is_forgotten_first_even_if_it_was_met_again() -> None:
    seen = SeenSet(2)
    for hash in (b"a", b"b", b"a", b"c"):
        seen.add(hash)
    assert b"a" not in seen
    assert len(seen) == 2


def test_a_value_set_again_becomes_the_newest() -> None:
    values: BoundedMap[int] = BoundedMap(2)
    values[b"a"] = 1
    values[b"b"] = 2
    values[b"a"] = 3
    values[b"c"] = 4
    assert list(values) == [b"a", b"c"]
    assert values.get(b"a") == 3
    assert values.get(b"b") is None
    assert values.pop(b"c") == 4
    assert values.pop(b"c") is None


def test_a_memory_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SeenSet(0)
