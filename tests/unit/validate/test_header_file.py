"""The header file keeps whole batches, heals a torn end, and is nobody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from made_blocks import REGTEST

from bitcoin_sprint.chains import network
from bitcoin_sprint.errors import ConfigError, HostError, WriterActive
from bitcoin_sprint.validate.header_file import HeaderFile

ROOT = REGTEST.genesis_hash
HEAD_BYTES = 64


def opened(path: Path, root: bytes = ROOT, height: int = 0) -> HeaderFile:
    return HeaderFile(path, REGTEST, root, height)


def content(path: Path) -> list[bytes]:
    file = opened(path)
    try:
        return list(file.read())
    finally:
        file.close()


def filled(path: Path, *counts: int) -> list[bytes]:
    """A file of batches of so many headers each."""
    batches = [bytes([i + 1]) * 80 * count for i, count in enumerate(counts)]
    file = opened(path)
    assert list(file.read()) == []
    for batch in batches:
        file.append(batch)
    file.close()
    return batches


def test_what_is_appended_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "headers"
    batches = filled(path, 1, 2_000, 3)
    assert content(path) == batches
    assert path.stat().st_size == HEAD_BYTES + sum(8 + len(batch) for batch in batches)


@pytest.mark.parametrize("lost", [1, 79, 80, 81, 160, 239])
def test_a_torn_end_is_cut_and_writing_goes_on_there(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "headers"
    batches = filled(path, 2, 3)
    os.truncate(path, path.stat().st_size - lost)
    file = opened(path)
    assert list(file.read()) == batches[:1]
    file.append(b"\x09" * 80)
    file.close()
    assert content(path) == [batches[0], b"\x09" * 80]


@pytest.mark.parametrize("offset", [0, 3, 4, 8, 100])
def test_a_damaged_batch_and_what_follows_is_cut(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "headers"
    batches = filled(path, 1, 2, 3)
    data = bytearray(path.read_bytes())
    data[HEAD_BYTES + 8 + 80 + offset] ^= 0x10
    path.write_bytes(data)
    assert content(path) == batches[:1]
    assert path.stat().st_size == HEAD_BYTES + 8 + 80


@pytest.mark.parametrize("length", [0, 1, 8, 63])
def test_a_torn_head_starts_anew(tmp_path: Path, length: int) -> None:
    path = tmp_path / "headers"
    filled(path, 1)
    os.truncate(path, length)
    assert content(path) == []
    filled(path, 2)


def test_a_head_with_a_wrong_checksum_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    filled(path, 1)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    assert content(path) == []


def test_a_batch_that_the_reader_leaves_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    batches = filled(path, 1, 2, 3)
    file = opened(path)
    reader = file.read()
    assert [next(reader), next(reader)] == batches[:2]
    reader.close()
    file.close()
    assert content(path) == batches[:1]


def test_another_networks_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    filled(path, 1)
    before = path.read_bytes()
    main = network("main")
    for net, root, height in ((main, main.genesis_hash, 0), (REGTEST, ROOT, 2016)):
        with pytest.raises(ConfigError, match="another network or checkpoint"):
            HeaderFile(path, net, root, height)
    assert path.read_bytes() == before


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    for foreign in (b"x", b"my notes, please keep them"):
        path.write_bytes(foreign)
        with pytest.raises(ConfigError, match="not a header file"):
            opened(path)
        assert path.read_bytes() == foreign


def test_only_one_may_have_it_open(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    first = opened(path)
    with pytest.raises(WriterActive, match="another instance"):
        opened(path)
    first.close()
    opened(path).close()


def test_a_directory_that_cannot_be_is_the_hosts_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="cannot open"):
        opened(tmp_path / "file" / "headers")


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "headers"
    batches = filled(path, 1)
    file = opened(path)
    assert list(file.read()) == batches
    real, calls = os.pwrite, []

    def full(fd: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(fd, bytes(data)[:50], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(HostError, match="No space left"):
        file.append(b"\x07" * 160)
    monkeypatch.undo()
    file.append(b"\x08" * 80)
    file.close()
    assert content(path) == [*batches, b"\x08" * 80]
