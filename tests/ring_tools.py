"""What tests of the ring share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitcoin_sprint.frames import Kind, Level
from bitcoin_sprint.ring import Writer
from bitcoin_sprint.ring.layout import SHARED_MEMORY


def publish(writer: Writer, payload: Any = b"payload", **fields: Any) -> int:
    """A frame with whatever is not under test filled in."""
    return writer.publish(
        fields.pop("kind", Kind.TX),
        payload,
        hash=fields.pop("hash", bytes(32)),
        level=fields.pop("level", Level.UNVERIFIED),
        **fields,
    )


def objects(instance: str) -> list[Path]:
    """The instance's objects in shared memory."""
    return sorted(SHARED_MEMORY.glob(f"sprint.{instance}.*"))
