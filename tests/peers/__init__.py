"""Software that nobody here wrote: brought by ``make peers``, started by tests as real processes.

``python -m peers`` (with ``tests`` on the path) brings it into the user's cache directory; the
fixtures ``bitcoind``, ``litecoind`` and ``bcoin`` (``peers.fixtures``, loaded by
``tests/conftest.py``) start it. What is missing is skipped by name, or fails where
``SPRINT_REQUIRE_PEERS`` (a comma list, or ``all``) asks for it.
"""

from peers.nodes import Bcoin, Bitcoind, Litecoind, Node
from peers.places import Missing, find, is_required, missing, need, test_framework
from peers.rpc import RpcError
from peers.spender import Spender

__all__ = [
    "Bcoin",
    "Bitcoind",
    "Litecoind",
    "Missing",
    "Node",
    "RpcError",
    "Spender",
    "find",
    "is_required",
    "missing",
    "need",
    "test_framework",
]
