"""What bringing a peer needs: one run at a time, whole results or none, commands with a log."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from peers.places import Missing, cache_directory

_PROGRESS_SECONDS = 30


def say(text: str) -> None:
    """One progress line on standard error."""
    print(f"peers: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Holds the cache directory's lock; what an interrupted run left half made is removed."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is bringing peers, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob(".making-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextlib.contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """A fresh directory beside ``target`` that takes its name only when the body succeeds."""
    making = target.parent / f".making-{target.name}"
    making.mkdir(parents=True)
    try:
        yield making
        if target.exists():
            shutil.rmtree(target)
        making.rename(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def run(what: str, command: Sequence[str | Path], *, cwd: Path, log: Path) -> None:
    """Runs a command with its output in ``log``, saying now and then that it is still at work.

    Raises ``Missing`` with the end of the log when the command fails or does not exist.
    """
    started = time.monotonic()
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        except FileNotFoundError as error:
            raise Missing(f"{what}: {error.filename} is not installed") from None
        try:
            while _is_running(process):
                say(f"{what}: {time.monotonic() - started:.0f} s, {_last_line(log)}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        tail = log.read_text(errors="replace").splitlines()[-15:]
        raise Missing(f"{what} failed ({process.returncode}):\n    " + "\n    ".join(tail))


def need_debian_packages(packages: Sequence[str], log: Path) -> None:
    """Sees to it that Debian packages are installed: as root by apt-get, else by one printed line.

    Elsewhere than on Debian nothing is checked; what is missing shows when it is used.
    """
    if not shutil.which("dpkg-query"):
        return
    absent = [name for name in packages if not _is_installed(name)]
    if not absent:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *absent]
    if os.geteuid() != 0:
        raise Missing(f"as root: {' '.join(install)}")
    say(f"apt-get install {' '.join(absent)}")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    try:
        run("apt-get install", install, cwd=log.parent, log=log)
    except Missing:
        run("apt-get update", ["apt-get", "update"], cwd=log.parent, log=log)
        run("apt-get install", install, cwd=log.parent, log=log)


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_PROGRESS_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1].strip()[:100] if lines else "no output yet"


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    done = subprocess.run(query, capture_output=True, text=True)
    return done.stdout == "installed"
