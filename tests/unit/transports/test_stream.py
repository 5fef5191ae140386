import contextlib
import resource
import socket
import stat

import pytest
from relay_rig import Rings, eventually, patient, running_worker

from bitcoin_sprint.client.decoder import StreamDecoder
from bitcoin_sprint.client.numbering import Numbering
from bitcoin_sprint.errors import HostError
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.transports import stream
from bitcoin_sprint.transports.codec import PREFIX, Message, pack_message
from bitcoin_sprint.transports.handshake import (
    ErrorMessage,
    Refusal,
    Start,
    StartMode,
    Subscribe,
    Welcome,
)


@pytest.fixture
def rings():
    rings = Rings()
    yield rings
    rings.close()


class Peer:
    """A client that says just what a test makes it say."""

    def __init__(self, running, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", running.worker.stream_port))
        self.gaps = []
        self.numbering = Numbering(lambda *gap: self.gaps.append(gap), None)
        self.decoder = StreamDecoder(self.numbering)

    def say(self, data):
        self.socket.sendall(data)
        return self

    def subscribe(self, **fields):
        self.say(pack_message(Message.SUBSCRIBE, Subscribe(**fields).pack()))
        answer = self.event()
        if isinstance(answer, Welcome):
            self.numbering.welcomed("blocks", Kind.HEADER, answer.blocks)
        return answer

    def event(self):
        while not self.decoder.events:
            data = self.socket.recv(65_536)
            assert data, "the server closed the connection"
            self.decoder.feed(data)
        return self.decoder.events.popleft()

    def events(self, count):
        return [self.event() for _ in range(count)]

    def ended(self):
        """Whether the server has closed, after nothing but what was read."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.socket.close()


@pytest.fixture
def peer():
    with contextlib.ExitStack() as stack:

        def connect(running, **options):
            connected = Peer(running, **options)
            stack.callback(connected.close)
            return connected

        yield connect


def test_a_subscriber_is_welcomed_and_gets_what_is_published_from_then_on(rings, peer):
    rings.header(1)
    with running_worker(rings) as running:
        client = peer(running)
        welcome = client.subscribe(name="desk")
        assert isinstance(welcome, Welcome)
        assert (welcome.tier, welcome.network) == ("turbo", "regtest")
        assert welcome.blocks.session == rings.blocks.session
        assert (welcome.blocks.start, welcome.blocks.previous) == (2, 1)
        rings.header(2)
        rings.publish(Kind.TX, b"raw")
        first, second = client.events(2)
        assert {first.height, second.kind} == {2, Kind.TX}
        running.wait_for(subscribers=1, frames_sent=2)


def test_kinds_and_rings_are_chosen_and_holes_of_the_filter_are_none(rings, peer):
    with running_worker(rings) as running:
        client = peer(running)
        welcome = client.subscribe(kinds=frozenset({Kind.HEADER}), tx=Start(StartMode.NONE))
        assert welcome.tx.session == 0
        rings.header(1)
        for _ in range(5):
            rings.publish(Kind.TIP, bytes(80))
            rings.publish(Kind.TX, b"raw")
        rings.header(2)
        assert [frame.sequence for frame in client.events(2)] == [1, 7]
        assert client.gaps == []


def test_the_oldest_start_gives_what_the_tiers_buffer_holds(rings, peer):
    for height in range(30):
        rings.header(height)
    with running_worker(rings, patient("turbo", buffer_frames=8)) as running:
        client = peer(running)
        welcome = client.subscribe(blocks=Start(StartMode.OLDEST))
        assert (welcome.blocks.start, welcome.blocks.oldest, welcome.blocks.newest) == (23, 23, 30)
        assert [frame.sequence for frame in client.events(8)] == list(range(23, 31))


@pytest.mark.parametrize(
    ("session_off", "sequence", "start"), [(0, 4, 4), (0, 99, 11), (1, 4, 1), (0, 0, 1)]
)
def test_a_start_by_number_counts_only_in_its_session(rings, peer, session_off, sequence, start):
    for height in range(10):
        rings.header(height)
    with running_worker(rings) as running:
        session = rings.blocks.session ^ session_off
        wanted = Start(StartMode.SEQUENCE, session, sequence)
        welcome = peer(running).subscribe(blocks=wanted)
        assert welcome.blocks.start == start


def test_a_block_larger_than_every_buffer_arrives_whole(rings, peer):
    payload = bytes(range(251)) * 20_000
    with running_worker(rings) as running:
        client = peer(running)
        client.subscribe()
        rings.publish(Kind.BLOCK, payload)
        assert client.event().payload == payload


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303"),
    "zeros": bytes(64),
    "a frame": pack_message(Message.CHUNK, b"x"),
    "too long": PREFIX.pack(Message.SUBSCRIBE, 0, 0, 4_097),
    "cut short": pack_message(Message.SUBSCRIBE, Subscribe().pack()[:10]),
    "more than it": pack_message(Message.SUBSCRIBE, Subscribe().pack()) + b"x",
    "nothing selected": pack_message(
        Message.SUBSCRIBE,
        Subscribe(blocks=Start(StartMode.NONE), tx=Start(StartMode.NONE)).pack(),
    ),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=list(GARBAGE))
def test_garbage_is_told_so_and_dropped(rings, peer, data):
    with running_worker(rings) as running:
        client = peer(running).say(data)
        answer = client.event()
        assert isinstance(answer, ErrorMessage)
        assert answer.code == Refusal.MALFORMED
        assert client.ended()
        running.wait_for(subscribers=0, subscribers_refused=1)


def test_another_version_and_another_tier_are_refused_by_name(rings, peer):
    with running_worker(rings) as running:
        version = pack_message(Message.SUBSCRIBE, b"\x09\x00" + Subscribe().pack()[2:])
        assert peer(running).say(version).event().code == Refusal.VERSION
        assert peer(running).subscribe(tier="free").code == Refusal.TIER
        assert peer(running).subscribe(tier="gold").code == Refusal.TIER
        assert isinstance(peer(running).subscribe(tier="Turbo"), Welcome)


def test_an_alias_of_the_tier_will_do(rings, peer):
    with running_worker(rings, patient("pro")) as running:
        assert isinstance(peer(running).subscribe(tier="developer"), Welcome)


def test_a_subscriber_that_speaks_out_of_turn_is_dropped(rings, peer):
    with running_worker(rings) as running:
        client = peer(running)
        client.subscribe()
        running.wait_for(subscribers=1)
        client.say(b"x")
        assert client.ended()
        running.wait_for(subscribers=0)


def test_a_subscriber_that_leaves_is_forgotten(rings, peer):
    with running_worker(rings) as running:
        client = peer(running)
        client.subscribe()
        rings.header()
        client.event()
        client.close()
        running.wait_for(subscribers=0, frames_sent=1)


def test_half_a_handshake_is_given_up_in_time(rings, peer, monkeypatch):
    shorten(monkeypatch, handshake_ns=50_000_000)
    with running_worker(rings) as running:
        half = peer(running).say(pack_message(Message.SUBSCRIBE, Subscribe().pack())[:9])
        silent = peer(running)
        assert half.event().code == Refusal.TIMEOUT
        assert silent.event().code == Refusal.TIMEOUT
        running.wait_for(subscribers_refused=2)


def test_too_many_arrivals_push_out_the_oldest_and_the_good_one_is_served(rings, peer, monkeypatch):
    shorten(monkeypatch, arrivals_max=4)
    with running_worker(rings) as running:
        idle = [peer(running) for _ in range(4)]
        good = peer(running)
        assert isinstance(good.subscribe(), Welcome)
        assert idle[0].event().code == Refusal.TIMEOUT
        assert isinstance(idle[3].subscribe(), Welcome)


def test_a_full_worker_says_so(rings, peer, monkeypatch):
    shorten(monkeypatch, subscribers_max=2)
    with running_worker(rings) as running:
        kept = [peer(running) for _ in range(2)]
        for client in kept:
            client.subscribe()
        assert peer(running).event().code == Refusal.FULL
        kept[0].close()
        running.wait_for(subscribers=1)
        assert isinstance(peer(running).subscribe(), Welcome)


def test_a_reader_that_never_reads_delays_nobody_and_is_closed_in_the_end(rings, peer, monkeypatch):
    shorten(monkeypatch, stall_ns=300_000_000)
    policy = patient("turbo", write_deadline_ns=1_000_000)
    payload = bytes(1 << 20)
    with running_worker(rings, policy) as running:
        stuck = peer(running, receive_buffer=4_096)
        stuck.subscribe()
        good = peer(running)
        good.subscribe()
        for number in range(1, 13):
            rings.publish(Kind.BLOCK, payload, hash=bytes([number]) * 32)
            assert good.event().sequence == number
        assert good.gaps == []
        figures = running.wait_for(subscribers=1, subscribers_stalled=1)
        assert figures["frames_overwritten"] >= 1
        assert figures["frames_sent"] >= 12


def test_a_slow_reader_gets_the_newest_block_and_every_hole_is_told(rings, peer):
    policy = patient("turbo", write_deadline_ns=1_000_000, buffer_frames=4)
    payload = bytes(1 << 20)
    with running_worker(rings, policy) as running:
        slow = peer(running, receive_buffer=4_096)
        slow.subscribe()
        watcher = peer(running)
        watcher.subscribe(kinds=frozenset({Kind.BLOCK}))
        for number in range(1, 15):
            rings.publish(Kind.BLOCK, payload, hash=bytes([number]) * 32)
            watcher.event()
        got = []
        while not got or got[-1].sequence < 14:
            got.append(slow.event())
        missing = {n for _, first, last in slow.gaps for n in range(first, last + 1)}
        assert {frame.sequence for frame in got} | missing == set(range(1, 15))
        assert {frame.sequence for frame in got} & missing == set()
        assert all(frame.payload == payload for frame in got)
        figures = running.wait_for(frames_overwritten=len(missing))
        assert figures["frames_missed"] == 0


def test_a_frame_torn_under_a_slow_reader_is_aborted_and_never_delivered(peer):
    rings = Rings(slot_count=64, arena_bytes=32 << 20)
    try:
        with running_worker(rings, patient("free")) as running:
            slow = peer(running, receive_buffer=4_096)
            slow.subscribe(kinds=frozenset({Kind.BLOCK, Kind.HEADER}))
            rings.publish(Kind.BLOCK, b"\x01" * (15 << 20))
            eventually(lambda: running.counters()["bytes_sent"] > 0, running.counters)
            seen = running.worker._feeds[0].window
            for filler in range(4):
                number = rings.publish(Kind.TIP, bytes([filler]) * (8 << 20))
                eventually(lambda n=number: seen.last_sequence == n)  # or it is lapped itself
            rings.header(9)
            frame = slow.event()
            assert (frame.kind, frame.height) == (Kind.HEADER, 9)
            while slow.decoder.aborted == 0:
                slow.decoder.feed(slow.socket.recv(65_536))
            assert slow.gaps == [("blocks", 1, 1)]
            running.wait_for(frames_aborted=1, frames_missed=1)
    finally:
        rings.close()


def test_an_idle_subscriber_hears_a_heartbeat(rings, peer, monkeypatch):
    shorten(monkeypatch, heartbeat_ns=20_000_000)
    with running_worker(rings) as running:
        client = peer(running)
        welcome = client.subscribe()
        assert welcome.heartbeat_ms == 20
        before = running.counters()["bytes_sent"]
        eventually(lambda: running.counters()["bytes_sent"] > before, running.counters)
        assert running.counters()["frames_sent"] == 0


def test_a_loss_at_the_very_end_shows_in_the_heartbeat(rings, peer, monkeypatch):
    shorten(monkeypatch, heartbeat_ns=20_000_000)
    with running_worker(rings, patient("free", relay_target_ns=0)) as running:
        client = peer(running)
        client.subscribe()
        rings.header()
        while not client.gaps:
            client.decoder.feed(client.socket.recv(65_536))
        assert client.gaps == [("blocks", 1, 1)]


def test_shutting_down_says_goodbye(rings, peer):
    with running_worker(rings) as running:
        client = peer(running)
        client.subscribe()
        arriving = peer(running)
        running.wait_for(subscribers=1)
        running.worker.stop()
        assert client.event().code == Refusal.CLOSING
        assert client.ended()
        assert arriving.event().code == Refusal.CLOSING


def test_a_port_that_is_taken_is_a_host_error_that_names_it(rings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(HostError, match=rf"turbo\.stream_port = {port}: cannot listen on 127"),
            running_worker(rings, patient("turbo", stream_port=port)),
        ):
            pass


def test_a_unix_socket_serves_its_group_and_is_gone_afterwards(rings, tmp_path):
    path = tmp_path / "deep" / "turbo.sock"
    with running_worker(rings, unix_path=path) as running:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(pack_message(Message.SUBSCRIBE, Subscribe().pack()))
            assert client.recv(1) == bytes([Message.WELCOME])
            running.wait_for(subscribers=1)
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(rings, tmp_path):
    path = tmp_path / "turbo.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with (
        running_worker(rings, unix_path=path),
        pytest.raises(HostError, match="another process listens there"),
        running_worker(rings, patient("free"), unix_path=path),
    ):
        pass


def test_out_of_descriptors_it_pauses_and_goes_on(rings, peer, caplog):
    with running_worker(rings) as running:
        first = peer(running)
        first.subscribe()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = peer(running)
        running.wait_for(subscribers=1)
        late = socket.socket()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, hard))
            late.connect(("127.0.0.1", running.worker.stream_port))
            eventually(lambda: "no new subscribers until" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            late.close()
        assert isinstance(waiting.subscribe(), Welcome)
        assert isinstance(peer(running).subscribe(), Welcome)


def shorten(monkeypatch, **changes):
    """Give the worker's stream server other bounds than the defaults."""
    original = stream.StreamOptions

    def options(**given):
        return original(**{**given, **changes})

    monkeypatch.setattr("bitcoin_sprint.relay.worker.StreamOptions", options)
