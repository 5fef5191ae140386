"""Telling systemd, over a real socket."""

import os
import socket
import time

import pytest

from bitcoin_sprint.control.notify import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    """The service manager's socket, announced to this process."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.settimeout(10)
        abstract = request.param == "abstract"
        receiving.bind("\0" + path if abstract else path)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + path if abstract else path)
        yield receiving


def _heard(manager):
    return dict(line.split("=", 1) for line in manager.recv(1000).decode().splitlines())


def test_it_is_told_how_we_are(manager):
    service = ServiceManager()
    service.ready("serving turbo")
    assert _heard(manager) == {"READY": "1", "STATUS": "serving turbo"}
    service.status("serving turbo")
    service.status("restarting ingest")
    assert _heard(manager) == {"STATUS": "restarting ingest"}
    service.alive()
    assert _heard(manager) == {"WATCHDOG": "1"}
    service.stopping()
    assert _heard(manager) == {"STOPPING": "1", "STATUS": "stopping"}


def test_a_reload_says_when_it_began_by_the_monotonic_clock(manager):
    before = time.monotonic_ns() // 1000
    ServiceManager().reloading()
    heard = _heard(manager)
    assert heard["RELOADING"] == "1"
    assert before <= int(heard["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


@pytest.mark.usefixtures("manager")
def test_the_watchdog_is_fed_when_it_asks_this_process(monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert ServiceManager().watchdog_s == 3.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert ServiceManager().watchdog_s == 3.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    assert ServiceManager().watchdog_s is None
    monkeypatch.delenv("WATCHDOG_USEC")
    assert ServiceManager().watchdog_s is None


@pytest.mark.parametrize("address", ["", "nobody", "vsock:2:1234"])
def test_without_a_service_manager_nothing_happens(monkeypatch, tmp_path, address):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / address) if address == "nobody" else address)
    service = ServiceManager()
    service.ready("serving")
    service.alive()


def test_one_that_does_not_listen_holds_nobody_up(manager):
    service = ServiceManager()
    for _ in range(10_000):  # far more than its queue takes
        service.alive()
    assert _heard(manager) == {"WATCHDOG": "1"}
