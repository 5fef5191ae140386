"""Brings every peer, each pinned by hash, into the cache directory or this environment.

Idempotent: what is there is left alone and needs no network. Nothing that one peer lacks stops
the others; the summary says what is missing and how to get it.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tarfile
from pathlib import Path

from peers import places
from peers.places import Missing
from peers.workshop import alone, made_whole, need_debian_packages, run, say

_CORE_PACKAGES = (
    *("cmake", "g++", "make", "pkg-config"),
    *("libboost-dev", "libevent-dev", "libzmq3-dev"),
)
_CORE_SWITCHES = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DWITH_ZMQ=ON", "-DENABLE_WALLET=OFF", "-DENABLE_IPC=OFF"),
    *("-DBUILD_TESTS=OFF", "-DBUILD_TX=OFF", "-DBUILD_UTIL=OFF", "-DBUILD_BITCOIN_BIN=OFF"),
    "-DENABLE_EXTERNAL_SIGNER=OFF",
)
_CORE_CONFIG = """\
[environment]
CLIENT_NAME=Bitcoin Core
CLIENT_BUGREPORT=https://github.com/bitcoin/bitcoin/issues
SRCDIR={home}
BUILDDIR={home}
EXEEXT=
RPCAUTH={home}/share/rpcauth/rpcauth.py

[components]
ENABLE_BITCOIND=true
ENABLE_ZMQ=true
ENABLE_EMBEDDED_ASMAP=true
"""


def main() -> int:
    """Brings what is missing; returns 1 when a required peer still is, else 0."""
    with alone():
        log = places.cache_directory() / "peers.log"
        log.write_bytes(b"")
        reasons = {name: reason for name in places.NAMES if (reason := _bring(name, log))}
    for name in places.NAMES:
        if name in reasons:
            say(f"{name}: MISSING{' (required)' * places.is_required(name)}: {reasons[name]}")
        else:
            say(f"{name}: ready")
    return int(any(places.is_required(name) for name in reasons))


def _bring(name: str, log: Path) -> str:
    """Brings one peer unless it is there; returns why it is missing, or nothing."""
    try:
        if places.find(name) is None:
            say(f"bringing {name}")
            _BRINGERS[name](name, log)
            places.forget()
            places.need(name)
    except Missing as reason:
        return str(reason)
    return ""


def _bring_bitcoind(_name: str, log: Path) -> None:
    need_debian_packages(_CORE_PACKAGES, log)
    places.forget()
    if places.find("bitcoind"):  # a cached one that lacked only a library
        return
    with made_whole(places.core_directory()) as making:
        source = _unpack_core(making, log)
        say("building bitcoind, about 6 minutes on 2 cores")
        configure = ["cmake", "-B", "build", *_CORE_SWITCHES]
        run("configuring bitcoind", configure, cwd=source, log=log)
        jobs = str(len(os.sched_getaffinity(0)))
        build = ["cmake", "--build", "build", "--parallel", jobs, "--target", "bitcoind"]
        run("building bitcoind", build, cwd=source, log=log)
        (making / "bin").mkdir()
        shutil.copy2(source / "build" / "bin" / "bitcoind", making / "bin")
        _keep_functional_tests(source, making)
        shutil.rmtree(making / "source")


def _bring_test_framework(_name: str, log: Path) -> None:
    """Core's functional tests by themselves, where bitcoind came from elsewhere."""
    with made_whole(places.core_directory()) as making:
        _keep_functional_tests(_unpack_core(making, log), making)
        shutil.rmtree(making / "source")
        (making / "bin").mkdir()
        (making / "bin" / "bitcoind").symlink_to(places.need("bitcoind").resolve())


def _unpack_core(making: Path, log: Path) -> Path:
    """Bitcoin Core's source, out of the source distribution whose hash is pinned."""
    source = making / "source"
    source.mkdir()
    pin = source / "pin.txt"
    pin.write_text(f"{places.CORE_SDIST} --hash=sha256:{places.CORE_SDIST_SHA256}\n")
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    download += ["--require-hashes", "-r", pin.name, "-d", "."]
    run("fetching Bitcoin Core's source", download, cwd=source, log=log)
    (archive,) = source.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        content.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4
        content.extractall(source)
    (core,) = source.glob("*/depend/bitcoin")
    return core


def _keep_functional_tests(source: Path, making: Path) -> None:
    shutil.copytree(source / "test" / "functional", making / "test" / "functional")
    shutil.copytree(source / "share" / "rpcauth", making / "share" / "rpcauth")
    config = _CORE_CONFIG.format(home=places.core_directory())
    (making / "test" / "config.ini").write_text(config)


def _bring_litecoind(_name: str, log: Path) -> None:
    need_debian_packages(["litecoind"], log)


def _bring_bcoin(_name: str, log: Path) -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        need_debian_packages(["nodejs", "npm"], log)
    with made_whole(places.bcoin_directory()) as making:
        for name in ("package.json", "package-lock.json"):
            shutil.copy2(places.NPM_PROJECT / name, making)
        # No install scripts: bcoin runs on its JavaScript back ends, so nothing is compiled.
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        run("fetching bcoin", install, cwd=making, log=log)


def _bring_python_peer(name: str, log: Path) -> None:
    """Into this environment; wheels only, since an oracle is not worth another tool chain."""
    if sys.prefix == sys.base_prefix:
        raise Missing(f"{name} goes into a virtual environment; run `make peers`")
    install = [sys.executable, "-m", "pip", "install", "--require-hashes", "--no-deps"]
    install += ["--only-binary", ":all:", "-r", str(places.LOCKS / f"{name}.lock")]
    run(f"fetching {name}", install, cwd=Path(sysconfig.get_path("purelib")), log=log)


_BRINGERS = {
    "bitcoind": _bring_bitcoind,
    "test-framework": _bring_test_framework,
    "litecoind": _bring_litecoind,
    "bcoin": _bring_bcoin,
    **dict.fromkeys(places.PYTHON_PEERS, _bring_python_peer),
}
