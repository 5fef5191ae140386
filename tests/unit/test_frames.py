"""The vocabulary of frames: Python and C say the same, payloads survive the round trip."""

from __future__ import annotations

import enum
import re
from pathlib import Path

import pytest

from bitcoin_sprint.frames import (
    BLOCK_FOOTER,
    Chain,
    Flag,
    Kind,
    Level,
    Mempool,
    MempoolAction,
    Retract,
    Tip,
    TipAction,
)

_HEADER = Path(__file__).parents[2] / "native" / "include" / "sprint.h"


def _c_enum(name: str) -> dict[str, int]:
    text = re.search(rf"enum sp_{name} {{(.*?)}};", _HEADER.read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None
    return {key: int(value) for key, value in re.findall(r"SP_\w+?_(\w+) = (-?\d+)", text[1])}


@pytest.mark.parametrize(
    ("name", "ours"), [("kind", Kind), ("level", Level), ("flag", Flag), ("chain", Chain)]
)
def test_c_and_python_give_the_same_numbers_the_same_names(
    name: str, ours: type[enum.Enum]
) -> None:
    members = {member.name: member.value for member in ours if member.value != 0 or name == "level"}
    assert _c_enum(name) == members


def test_kinds_of_the_two_rings_do_not_overlap() -> None:
    assert all(1 <= kind <= 15 or 16 <= kind <= 31 or kind >= 32 for kind in Kind)


def test_a_tip_survives_the_round_trip() -> None:
    tip = Tip(TipAction.DISCONNECTED, 17, bytes(range(32)), 1 << 200)
    packed = tip.pack()
    assert len(packed) == 80
    assert Tip.unpack(memoryview(packed)) == tip


def test_a_retraction_survives_the_round_trip() -> None:
    retract = Retract(5, bytes(32), "bad-txnmrklroot é")
    assert Retract.unpack(retract.pack()) == retract


def test_a_mempool_entry_survives_the_round_trip() -> None:
    entry = Mempool(MempoolAction.REMOVED, 1 << 40)
    assert Mempool.unpack(memoryview(entry.pack())) == entry
    added = Mempool(MempoolAction.ADDED, 1, b"raw")
    assert Mempool.unpack(added.pack()) == added


def test_the_block_footer_is_sixteen_bytes() -> None:
    assert BLOCK_FOOTER.size == 16
