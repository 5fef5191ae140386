"""Where each peer is on this machine, and whether the run insists on it."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

_HERE = Path(__file__).resolve().parent

CORE_SDIST = "py-bitcoinkernel==0.1.0a5"
CORE_SDIST_SHA256 = "71b91eecac7a8b07248be04471c3bf98016b38bf823aefd28f7b31179940520d"
LITECOIND = Path("/usr/lib/litecoin/litecoind")
NPM_PROJECT = _HERE / "npm"
LOCKS = _HERE / "locks"

# Peers that are Python packages: the distribution's name and what is imported.
PYTHON_PEERS = {"btclib": "btclib", "py-bitcoinkernel": "pbk", "iceoryx2": "iceoryx2"}
NAMES = ("bitcoind", "test-framework", "litecoind", "bcoin", *PYTHON_PEERS)


class Missing(Exception):
    """A peer is not on this machine; the text says which and how to get it."""


def cache_directory() -> Path:
    """Where peers are kept: ``$XDG_CACHE_HOME/bitcoin-sprint``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "bitcoin-sprint"


def core_directory() -> Path:
    """Bitcoin Core as we build it: ``bin/bitcoind``, ``test/functional``, ``test/config.ini``."""
    return cache_directory() / f"bitcoin-core-{CORE_SDIST_SHA256[:12]}"


def bcoin_directory() -> Path:
    """bcoin's ``node_modules`` stands here; the name pins the lock file's content."""
    digest = hashlib.sha256((NPM_PROJECT / "package-lock.json").read_bytes()).hexdigest()
    return cache_directory() / f"bcoin-{digest[:12]}"


def test_framework() -> Path | None:
    """Bitcoin Core's ``test/functional`` (``test_framework``, ``feature_signet.py``), if cached."""
    path = core_directory() / "test" / "functional"
    return path if path.is_dir() else None


def find(name: str) -> Path | None:
    """The peer's program or package directory, or ``None`` where it is missing."""
    if name == "bitcoind":
        return _find_bitcoind()
    if name == "test-framework":
        return test_framework()
    if name == "litecoind":
        return LITECOIND if _runs(LITECOIND) else None
    if name == "bcoin":
        entry = bcoin_directory() / "node_modules" / "bcoin" / "bin" / "node"
        return entry if entry.is_file() and shutil.which("node") else None
    spec = importlib.util.find_spec(PYTHON_PEERS[name])
    return Path(spec.origin).parent if spec and spec.origin else None


def missing() -> list[str]:
    """The names of all peers that are not on this machine."""
    return [name for name in NAMES if find(name) is None]


def is_required(name: str) -> bool:
    """Whether ``SPRINT_REQUIRE_PEERS`` makes this peer's absence a failure."""
    wanted = {part.strip() for part in os.environ.get("SPRINT_REQUIRE_PEERS", "").split(",")}
    if unknown := wanted - {"", "all", *NAMES}:
        raise ValueError(
            f"SPRINT_REQUIRE_PEERS names {', '.join(sorted(unknown))}; "
            f"it knows all, {', '.join(NAMES)}"
        )
    return "all" in wanted or name in wanted


def need(name: str) -> Path:
    """The peer's path; raises ``Missing`` where there is none."""
    if (path := find(name)) is None:
        raise Missing(f"peer {name} is missing: run `make peers`")
    return path


def _find_bitcoind() -> Path | None:
    named = os.environ.get("SPRINT_TEST_BITCOIND")
    if named:
        if not _runs(Path(named)):
            raise Missing(f"SPRINT_TEST_BITCOIND names {named}, which does not run")
        return Path(named)
    on_path = shutil.which("bitcoind")
    candidates = [Path(on_path)] if on_path else []
    candidates.append(core_directory() / "bin" / "bitcoind")
    return next((path for path in candidates if _runs(path)), None)


@functools.cache
def _runs(program: Path) -> bool:
    """Whether the program starts here: a cached one may lack a shared library on another host."""
    if not os.access(program, os.X_OK):
        return False
    try:
        done = subprocess.run([program, "-version"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def forget() -> None:
    """Looks afresh at what is installed, after something was."""
    _runs.cache_clear()
    importlib.invalidate_caches()
