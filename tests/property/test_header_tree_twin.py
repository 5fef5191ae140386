"""The flat header tree and a plain dictionary of headers answer every question alike."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from bitcoin_sprint.native import ffi, lib
from bitcoin_sprint.validate import work_of

BITS = [0x207FFFFF, 0x1D00FFFF, 0x1B0404CB, 0x170331DB, 0x03123456, 0x2100FFFF, 0x04923456, 0]


class Twin:
    """Parents by index, everything else walked one block at a time."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.height: list[int] = []
        self.work: list[int] = []
        self.time: list[int] = []

    def grow(self, parent: int, bits: int, time: int) -> None:
        is_root = not self.parent
        self.height.append(0 if is_root else self.height[parent] + 1)
        self.work.append((0 if is_root else self.work[parent]) + work_of(bits))
        self.parent.append(parent)
        self.time.append(time)

    def chain(self, index: int) -> list[int]:
        """From the root up to the node."""
        nodes = [index]
        while self.height[nodes[-1]]:
            nodes.append(self.parent[nodes[-1]])
        return nodes[::-1]

    def best(self, condemned: set[int]) -> int:
        fit = [i for i in range(len(self.parent)) if not condemned & set(self.chain(i))]
        return max(fit, key=lambda i: (self.work[i], -i))


def header_of(previous: bytes, mark: int, time: int, bits: int) -> bytes:
    return (
        bytes(4) + previous + mark.to_bytes(32, "little") + time.to_bytes(4, "little")
        + bits.to_bytes(4, "little") + bytes(4)
    )  # fmt: skip


steps = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(BITS), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=120,
)


def grown(plan: list[tuple[int, int, int]], near: bool) -> tuple[object, Twin]:
    """The same tree twice; ``near`` makes parents recent ones, so that chains get long."""
    twin = Twin()
    root = header_of(bytes(32), 0, plan[0][2], BITS[0])
    work = work_of(BITS[0]).to_bytes(32, "little")
    tree = ffi.gc(lib.sp_headers_new(root, 0, work, ffi.NULL, 0, 1_000), lib.sp_headers_free)
    twin.grow(0, BITS[0], plan[0][2])
    for mark, (choice, bits, time) in enumerate(plan[1:], start=1):
        count = len(twin.parent)
        parent = count - 1 - choice % min(count, 3) if near else choice % count
        previous = bytes(ffi.buffer(lib.sp_headers_at(tree, parent).hash))
        assert lib.sp_headers_append(tree, header_of(previous, mark, time, bits)) == mark
        twin.grow(parent, bits, time)
    return tree, twin


@settings(max_examples=150, deadline=None)
@given(steps, st.booleans(), st.data())
def test_every_answer_agrees(
    plan: list[tuple[int, int, int]], near: bool, data: st.DataObject
) -> None:
    tree, twin = grown(plan, near)
    nodes = st.integers(0, len(twin.parent) - 1)
    for index in range(len(twin.parent)):
        node = lib.sp_headers_at(tree, index)
        assert node.height == twin.height[index]
        assert int.from_bytes(ffi.buffer(node.work), "little") == twin.work[index]
        assert lib.sp_headers_find(tree, node.hash) == index
        times = sorted(twin.time[i] for i in twin.chain(index)[-11:])
        assert lib.sp_headers_median_time(tree, index) == times[len(times) // 2]
        for height, expected in enumerate(twin.chain(index)):
            assert lib.sp_headers_ancestor(tree, index, height) == expected
    assert lib.sp_headers_best(tree) == twin.best(set())
    for _ in range(10):
        a, b = data.draw(nodes), data.draw(nodes)
        common = [i for i, j in zip(twin.chain(a), twin.chain(b), strict=False) if i == j]
        assert lib.sp_headers_fork(tree, a, b) == common[-1]


@settings(max_examples=100, deadline=None)
@given(steps, st.booleans(), st.lists(st.tuples(st.booleans(), st.integers(0, 10**6)), max_size=6))
def test_condemnation_agrees(
    plan: list[tuple[int, int, int]], near: bool, orders: list[tuple[bool, int]]
) -> None:
    tree, twin = grown(plan, near)
    condemned: set[int] = set()
    for condemns, choice in orders:
        index = choice % len(twin.parent)
        if condemns:
            lib.sp_headers_condemn(tree, index)
            condemned |= {index} - {0}
        else:
            lib.sp_headers_absolve(tree, index)
            above = {i for i in condemned if index in twin.chain(i)}
            condemned -= above | set(twin.chain(index))
        assert lib.sp_headers_best(tree) == twin.best(condemned)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_a_loaded_tree_is_the_tree_that_was_saved(plan: list[tuple[int, int, int]]) -> None:
    tree, twin = grown(plan, near=True)
    headers = [bytes(ffi.buffer(lib.sp_headers_at(tree, i).header)) for i in range(len(plan))]
    work = work_of(BITS[0]).to_bytes(32, "little")
    loaded = ffi.gc(
        lib.sp_headers_new(headers[0], 0, work, ffi.NULL, 0, 1_000), lib.sp_headers_free
    )
    count = len(plan) - 1
    assert lib.sp_headers_load(loaded, b"".join(headers[1:]), count) == count
    assert lib.sp_headers_load(loaded, b"".join(headers[1:]), count) == count
    assert lib.sp_headers_best(loaded) == lib.sp_headers_best(tree)
    assert lib.sp_headers_count(loaded) == len(twin.parent)
    orphans = [b for a, b in pairwise(headers) if b[4:36] != bytes(32)][-1:]
    lone = ffi.gc(
        lib.sp_headers_new(header_of(bytes(32), 1, 0, 0), 0, work, ffi.NULL, 0, 1_000),
        lib.sp_headers_free,
    )
    assert lib.sp_headers_load(lone, b"".join(orphans), len(orphans)) == 0
