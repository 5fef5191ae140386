"""Which keys can change while the engine runs, and what follows from that.

``RUNTIME_KEYS`` is the one place that says it: SIGHUP applies these and names the others as waiting
for a restart; a process that a new supervisor finds is kept when it differs in these alone.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from bitcoin_sprint.config.keys import KEYS
from bitcoin_sprint.config.schema import Config
from bitcoin_sprint.tiers import TIERS

RUNTIME_KEYS: Final = frozenset(
    [
        "log.level",
        "log.format",
        # These two name a tier's own keys, below.
        "write_deadline",
        "block_buffer_size",
        *(
            f"relay.tiers.{tier}.{key}"
            for tier in TIERS
            for key in ("relay_target", "write_deadline", "buffer_frames")
        ),
        "control.ready_timeout",
        "control.stop_timeout",
        "control.restart_delay_min",
        "control.restart_delay_max",
        "control.heartbeat_timeout",
        "control.orphan_timeout",
    ]
)
assert set(KEYS) >= RUNTIME_KEYS


def changed_keys(old: Config, new: Config) -> list[str]:
    """Return the paths of the keys whose values differ, in the order of the schema."""
    before, after = _tree(old), _tree(new)
    return [path for path in KEYS if _value(before, path) != _value(after, path)]


def with_runtime_keys(running: Config, new: Config) -> Config:
    """Return ``running`` with the keys of ``new`` that can change at run time."""
    tree, wanted = _tree(running), _tree(new)
    for path in RUNTIME_KEYS:
        _folder(tree, path)[KEYS[path].field] = _value(wanted, path)
    return msgspec.convert(tree, Config)


def fixed_digest(config: Config, *more: object) -> str:
    """Return a digest of all that cannot change at run time, ``more`` (plain values) included."""
    tree = _tree(config)
    for path in RUNTIME_KEYS:
        del _folder(tree, path)[KEYS[path].field]
    return hashlib.sha256(msgspec.json.encode([tree, *more], order="sorted")).hexdigest()


def _tree(config: Config) -> dict[str, Any]:
    tree: dict[str, Any] = msgspec.to_builtins(config)
    return tree


def _folder(tree: dict[str, Any], path: str) -> dict[str, Any]:
    for part in path.split(".")[:-1]:
        tree = tree[part]
    return tree


def _value(tree: dict[str, Any], path: str) -> Any:
    return _folder(tree, path)[KEYS[path].field]
