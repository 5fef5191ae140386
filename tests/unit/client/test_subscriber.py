import contextlib
import secrets
import socket
import threading

import pytest
import zmq
from relay_rig import Rings, eventually, patient, running_worker

from bitcoin_sprint.client import Subscriber, session
from bitcoin_sprint.errors import ConfigError, Disconnected, SubscriptionRefused
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.transports.codec import FrameHeader, Message, pack_message, pack_whole
from bitcoin_sprint.transports.handshake import (
    ErrorMessage,
    Range,
    Refusal,
    StartMode,
    Subscribe,
    Welcome,
)


@pytest.fixture
def rings():
    rings = Rings()
    yield rings
    rings.close()


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch):
    monkeypatch.setattr(session, "_DELAY_MAX_S", 0.02)


class ScriptedServer:
    """A server on a free port that answers each connection as a test says."""

    def __init__(self, *answers):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.subscriptions = []
        self._answers = list(answers)
        self._open = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                prefix = connection.recv(8, socket.MSG_WAITALL)
                body = connection.recv(int.from_bytes(prefix[4:], "little"), socket.MSG_WAITALL)
                self.subscriptions.append(Subscribe.unpack(body))
                data, stays = self._answers.pop(0) if self._answers else (b"", False)
                connection.sendall(data)
                if not stays:
                    connection.close()

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for connection in self._open:
            connection.close()


@pytest.fixture
def scripted():
    servers = []

    def start(*answers):
        servers.append(ScriptedServer(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def welcome(session_number=7, start=1, previous=0, heartbeat_ms=1_000):
    granted = Range(session=session_number, start=start, previous=previous)
    message = Welcome(
        heartbeat_ms=heartbeat_ms, blocks=granted, tx=Range(), tier="turbo", network="regtest"
    )
    return pack_message(Message.WELCOME, message.pack())


def frame(sequence, session_number=7, payload=b"p", crc=None):
    header = FrameHeader(
        kind=Kind.HEADER,
        session=session_number,
        sequence=sequence,
        previous=sequence - 1,
        publish_ns=1,
        length=len(payload),
    )
    return pack_whole(header.pack(), payload, crc32c(payload) if crc is None else crc)


@pytest.mark.parametrize("transport", ["tcp", "unix", "zmq"])
def test_frames_arrive_over_every_transport(rings, tmp_path, transport):
    path = tmp_path / "turbo.sock"
    payload = secrets.token_bytes(200_000)
    with running_worker(rings, unix_path=path) as running:
        address = {"tcp": running.tcp, "unix": f"unix://{path}", "zmq": running.zmq}[transport]
        with Subscriber(address) as subscriber:
            subscriber.connect()
            if transport == "zmq":
                running.wait_for(zmq_topics_wanted=7)
            rings.publish(Kind.BLOCK, payload, hash=bytes(31) + b"\x01", height=7)
            rings.publish(Kind.TX, b"raw")
            frames = {f.kind: f for f in (subscriber.receive(10), subscriber.receive(10))}
            assert frames[Kind.BLOCK].payload == payload
            assert frames[Kind.BLOCK].height == 7
            assert frames[Kind.TX].payload == b"raw"
            assert subscriber.gaps == subscriber.aborted == 0


def test_zeromq_with_curve_needs_the_servers_public_key(rings):
    public, secret = zmq.curve_keypair()
    with (
        running_worker(rings, zmq_curve_secret_key=secret.decode()) as running,
        Subscriber(running.zmq, curve_server_key=public.decode()) as subscriber,
    ):
        running.wait_for(zmq_topics_wanted=7)
        rings.header(4)
        assert subscriber.receive(10).height == 4


def test_it_iterates_until_it_is_closed(rings):
    with running_worker(rings) as running, Subscriber(running.tcp).connect() as subscriber:
        for height in range(3):
            rings.header(height)
        heights = []
        for received in subscriber:
            heights.append(received.height)
            if len(heights) == 3:
                subscriber.close()
        assert heights == [0, 1, 2]
        with pytest.raises(Disconnected, match="was closed"):
            subscriber.receive(0)


def test_nothing_within_the_timeout_is_none(rings):
    with running_worker(rings) as running, Subscriber(running.tcp).connect() as subscriber:
        assert subscriber.receive(0.02) is None
        assert subscriber.receive(0) is None
        rings.header(1)
        assert subscriber.receive(10).height == 1


def test_a_filter_and_a_start_in_the_past(rings):
    rings.header(1)
    rings.publish(Kind.TIP, bytes(80))
    rings.publish(Kind.TX, b"raw")
    with (
        running_worker(rings) as running,
        Subscriber(running.tcp, kinds=[Kind.HEADER, Kind.TX], start="oldest") as subscriber,
    ):
        assert {subscriber.receive(10).kind, subscriber.receive(10).kind} == {Kind.HEADER, Kind.TX}
        assert subscriber.welcome.blocks.oldest == 1


def test_a_worker_that_restarts_is_found_again_and_nothing_is_lost(rings):
    gaps = []
    policy = patient("turbo")
    with running_worker(rings, policy) as running:
        port = running.worker.stream_port
        subscriber = Subscriber(running.tcp, on_gap=lambda *gap: gaps.append(gap)).connect()
        rings.header(1)
        assert subscriber.receive(10).height == 1
    rings.header(2)
    with running_worker(rings, patient("turbo", stream_port=port)):
        rings.header(3)
        assert [subscriber.receive(10).height for _ in range(2)] == [2, 3]
        assert gaps == []
        assert subscriber.connections == 2
    subscriber.close()


def test_what_left_the_buffer_meanwhile_is_a_hole(rings):
    gaps = []
    with running_worker(rings, patient("turbo")) as running:
        port = running.worker.stream_port
        subscriber = Subscriber(running.tcp, on_gap=lambda *gap: gaps.append(gap)).connect()
        rings.header(1)
        assert subscriber.receive(10).sequence == 1
    for height in range(2, 31):
        rings.header(height)
    with running_worker(rings, patient("turbo", stream_port=port, buffer_frames=8)):
        assert subscriber.receive(10).sequence == 23
        assert gaps == [("blocks", 2, 22)]
    subscriber.close()


def test_a_filter_is_no_hole_but_a_loss_is(rings):
    gaps = []
    policy = patient("free", relay_target_ns=1)
    with running_worker(rings, policy) as running:
        subscriber = Subscriber(
            running.tcp, kinds=[Kind.HEADER], on_gap=lambda *gap: gaps.append(gap)
        ).connect()
        rings.publish(Kind.TIP, bytes(80))
        rings.header()
        eventually(lambda: running.counters()["frames_missed"] == 1, running.counters)
        assert subscriber.receive(1.5) is None
        assert gaps == [("blocks", 1, 2)]
        subscriber.close()


def test_a_frame_broken_off_is_asked_for_again_and_comes_once(scripted):
    half = pack_message(Message.FRAME, b"".join([frame(2)[8:112]]), 1)
    server = scripted(
        (welcome() + frame(1) + half + frame(3), False),
        (welcome(start=2, previous=1) + frame(2) + frame(3) + frame(4), True),
    )
    with Subscriber(server.address) as subscriber:
        assert [subscriber.receive(10).sequence for _ in range(4)] == [1, 3, 2, 4]
        assert subscriber.gaps == 0
    resumed = server.subscriptions[1].blocks
    assert (resumed.mode, resumed.session, resumed.sequence) == (StartMode.SEQUENCE, 7, 2)


def test_a_damaged_payload_is_not_delivered_and_the_frame_asked_for_again(scripted):
    server = scripted(
        (welcome() + frame(1) + frame(2, crc=1), True),
        (welcome(start=2, previous=1) + frame(2), True),
    )
    with Subscriber(server.address) as subscriber:
        assert [subscriber.receive(10).sequence for _ in range(2)] == [1, 2]
        assert (subscriber.gaps, subscriber.connections) == (0, 2)


def test_a_fresh_session_is_told(scripted):
    sessions = []
    server = scripted(
        (welcome() + frame(9), False), (welcome(8, start=1) + frame(1, session_number=8), True)
    )
    with Subscriber(
        server.address, on_session=lambda *change: sessions.append(change)
    ) as subscriber:
        assert [subscriber.receive(10).session for _ in range(2)] == [7, 8]
        assert sessions == [("blocks", 7, 8)]


def test_a_server_that_falls_silent_is_left(scripted, monkeypatch):
    monkeypatch.setattr(session, "_SILENCE_MIN_S", 0.05)
    monkeypatch.setattr("bitcoin_sprint.client.subscriber._SLICE_S", 0.02)
    server = scripted(
        (welcome(heartbeat_ms=1), True), (welcome(heartbeat_ms=1_000) + frame(1), True)
    )
    with Subscriber(server.address) as subscriber:
        assert subscriber.receive(10).sequence == 1
        assert subscriber.connections == 2


@pytest.mark.parametrize("code", [Refusal.FULL, Refusal.CLOSING, Refusal.TIMEOUT])
def test_a_refusal_for_now_is_tried_again(scripted, code):
    refusal = pack_message(Message.ERROR, ErrorMessage(code, "not now").pack())
    server = scripted((refusal, False), (refusal, False), (welcome() + frame(1), True))
    with Subscriber(server.address).connect() as subscriber:
        assert subscriber.receive(10).sequence == 1
    assert len(server.subscriptions) == 3


@pytest.mark.parametrize("code", [Refusal.MALFORMED, Refusal.VERSION, Refusal.TIER, Refusal.KEY])
def test_a_refusal_for_good_is_raised(scripted, code):
    refusal = pack_message(Message.ERROR, ErrorMessage(code, "never").pack())
    server = scripted((refusal, False))
    with (
        Subscriber(server.address) as subscriber,
        pytest.raises(SubscriptionRefused, match="never") as refused,
    ):
        subscriber.receive(10)
    assert refused.value.code == code


def test_the_tier_of_the_port_can_be_insisted_on(rings):
    with (
        running_worker(rings, patient("free")) as running,
        pytest.raises(SubscriptionRefused, match="this port serves free, not turbo"),
    ):
        Subscriber(running.tcp, tier="turbo").connect()


def test_a_server_of_another_version_is_refused_for_good(scripted):
    server = scripted((pack_message(Message.WELCOME, b"\x09\x00" + welcome()[10:]), True))
    with (
        Subscriber(server.address) as subscriber,
        pytest.raises(SubscriptionRefused, match="version 9"),
    ):
        subscriber.receive(10)


def test_without_reconnect_the_end_is_an_error(scripted):
    server = scripted((welcome() + frame(1), False))
    with Subscriber(server.address, reconnect=False) as subscriber:
        assert subscriber.receive(10).sequence == 1
        with pytest.raises(Disconnected, match="the stream ended"):
            subscriber.receive(10)


def test_nobody_there_is_told_by_connect_and_waited_for_by_receive():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(Disconnected, match="no answer"):
        Subscriber(address, connect_timeout=0.05).connect()
    with Subscriber(address) as subscriber:
        assert subscriber.receive(0.05) is None


def test_garbage_from_a_server_ends_that_connection(scripted):
    server = scripted((b"HTTP/1.1 400 Bad Request\r\n\r\n", True), (welcome() + frame(1), True))
    with Subscriber(server.address) as subscriber:
        assert subscriber.receive(10).sequence == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"address": "nowhere"}, ConfigError),
        ({"kinds": [Kind.HEARTBEAT]}, ValueError),
        ({"start": "yesterday"}, ValueError),
        ({"address": "zmq+tcp://127.0.0.1:1", "start": "oldest"}, ValueError),
        ({"address": "zmq+tcp://127.0.0.1:1", "curve_server_key": "short"}, ConfigError),
    ],
)
def test_bad_arguments_are_refused_at_once(options, error):
    with pytest.raises(error):
        Subscriber(**{"address": "tcp://127.0.0.1:1", **options})


def test_pauses_between_attempts_grow_with_jitter_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(session, "_DELAY_MAX_S", 5.0)
    for attempts in range(1, 40):
        ceiling = min(5.0, 0.05 * 2 ** (attempts - 1))
        delays = {session.retry_delay(attempts) for _ in range(50)}
        assert len(delays) > 1
        assert all(ceiling / 2 <= delay <= ceiling for delay in delays)
