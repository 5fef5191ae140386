"""A host that refuses: a taken port, too little shared memory, a disk that is full or read-only."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engines import Engine, stream_address

from bitcoin_sprint.client import Subscriber
from bitcoin_sprint.control.status import read_snapshot
from bitcoin_sprint.errors import SprintError
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.metrics import Counters

IN_PRIVATE = 'mount -t tmpfs -o "$0" tmpfs "$1" && shift && exec "$@"'


def mounted(where: Path | str, options: str) -> list[str]:
    """A command that runs what follows with a file system of its own at ``where``."""
    return ["unshare", "-m", "sh", "-c", IN_PRIVATE, options, str(where)]


@pytest.fixture
def may_mount(tmp_path: Path) -> None:
    tried = subprocess.run(
        [*mounted(tmp_path, "size=64k"), "true"], check=False, capture_output=True
    )
    if tried.returncode != 0:
        pytest.skip("no right to mount file systems in a namespace of our own (root has it)")


@pytest.fixture
def instance(request: pytest.FixtureRequest) -> str:
    return f"host{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"


def the_error(engine: Engine) -> str:
    """The only error that it told of, and nothing of Python."""
    assert "Traceback" not in engine.log()
    (event,) = [each for each in engine.events() if each["level"] == "error"]
    message: str = event["message"]
    return message


@pytest.mark.parametrize(
    "key", ["relay.tiers.free.stream_port", "relay.tiers.free.zmq_port", "sim.port"]
)
def test_a_taken_port_names_its_key_and_who_has_it(instance: str, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Engine(instance, tier="free", **{key: port}) as engine:
            assert engine.start().wait() == 3
            message = the_error(engine)
            assert (
                f"{key} = {port}: cannot listen on 127.0.0.1:{port}: address already in use"
                in message
            )
            assert f"(pid {os.getpid()}); choose another port" in message
            del engine.keys[key]


@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("size=64k", "/dev/shm: cannot have"),
        ("size=20m", "the rings need 24.0 MiB at the least"),
        ("size=64m,ro", "/dev/shm: cannot create"),
    ],
)
def test_too_little_shared_memory_is_one_line(instance: str, options: str, told: str) -> None:
    with Engine(instance, tier="free") as engine:
        engine.launcher = mounted("/dev/shm", options)
        assert engine.start().wait() == 3
        assert told in the_error(engine)


@contextlib.contextmanager
def on_disk(instance: str, folder: Path, options: str) -> Iterator[Engine]:
    """An engine whose data_dir stands on a file system of its own."""
    keys = {"tier": "free", "data_dir": str(folder / "data"), "sim.interval": "50ms"}
    with Engine(instance, **keys) as engine:
        engine.launcher = mounted(folder, options)
        yield engine.start().ready()
        assert "Traceback" not in engine.log()


def heights(engine: Engine, count: int) -> list[int]:
    found: list[int] = []
    with Subscriber(stream_address(engine, "free"), tier="free") as subscriber:
        for frame in subscriber:
            if frame.kind == Kind.BLOCK:
                found.append(frame.height)
                if len(found) == count:
                    break
    return found


def warnings(engine: Engine, start: str) -> list[str]:
    told = [each for each in engine.events() if each["level"] in ("warning", "error")]
    return [each["message"] for each in told if start in each["message"]]


@pytest.mark.usefixtures("may_mount")
def test_a_disk_that_is_full_costs_no_block_and_its_headers_are_saved_later(
    instance: str, tmp_path: Path
) -> None:
    with on_disk(instance, tmp_path, "size=64k") as engine:
        assert engine.process is not None
        seen = Path(f"/proc/{engine.process.pid}/root{tmp_path}")
        filler = seen / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        engine.until(lambda: warnings(engine, "cannot save headers: No space left on device"))
        found = heights(engine, 20)
        assert set(found) == set(range(min(found), max(found) + 1))
        filler.unlink()
        engine.until(lambda: "header chain: well again after" in engine.log())
        assert len(warnings(engine, "cannot save headers")) == 1
        assert engine.stop() == 0


@pytest.mark.usefixtures("may_mount")
def test_a_data_dir_that_cannot_be_written_is_gone_without(instance: str, tmp_path: Path) -> None:
    with on_disk(instance, tmp_path, "ro") as engine:
        assert heights(engine, 5)
        (told,) = warnings(engine, "data_dir")
        assert "Read-only file system; the header chain is kept in memory" in told
        snapshot = read_snapshot(instance, "ingest")
        assert snapshot is not None
        assert snapshot["counters"]["blocks_published"] > 0
        assert engine.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_name_that_another_user_has_taken_is_one_line(
    instance: str, capfd: pytest.CaptureFixture[str]
) -> None:
    squatted = Path(f"/dev/shm/sprint.{instance}.counters.sprintd")
    squatted.touch(mode=0o600)
    try:
        child = os.fork()
        if child == 0:
            code = 99
            with contextlib.suppress(BaseException):
                os.setgid(65_534)
                os.setuid(65_534)
                code = _exit_code_of(lambda: Counters.create(instance, "sprintd", []))
            os._exit(code)
        _, status = os.waitpid(child, 0)
        told = capfd.readouterr().err
        assert os.waitstatus_to_exitcode(status) == 3, told
        (line,) = told.splitlines()
        assert f"/dev/shm/sprint.{instance}.counters.sprintd belongs to another user" in line
    finally:
        squatted.unlink()


def _exit_code_of(work: Callable[[], object]) -> int:
    """What a command ends with that does this, and its one line."""
    try:
        work()
    except SprintError as error:
        os.write(2, f"{error}\n".encode())
        return error.exit_code
    return 0
