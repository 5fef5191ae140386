import secrets
import struct

import pytest
import zmq
from relay_rig import Rings, block_payload, eventually, running_worker, txid_of

from bitcoin_sprint.client.decoder import ZmqDecoder
from bitcoin_sprint.client.numbering import Numbering
from bitcoin_sprint.errors import ConfigError, HostError
from bitcoin_sprint.frames import Kind, Mempool, MempoolAction, TipAction
from bitcoin_sprint.transports.codec import HEARTBEAT_TOPIC, TOPICS
from bitcoin_sprint.transports.zmq_pub import ZmqPublisher

HASH = bytes(range(32))


@pytest.fixture
def rings():
    rings = Rings()
    yield rings
    rings.close()


@pytest.fixture
def subscribe():
    """An ordinary pyzmq subscriber, as anybody writes one for Bitcoin Core."""
    context = zmq.Context()
    sockets = []

    def connect(running, *topics, **options):
        socket = context.socket(zmq.SUB)
        sockets.append(socket)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.RCVTIMEO, 10_000)
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name), value)
        for topic in topics:
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        socket.connect(f"tcp://127.0.0.1:{running.worker.zmq_port}")
        wanted = sum(
            any(known.startswith(topic) for topic in topics)
            for known in (*TOPICS.values(), HEARTBEAT_TOPIC, *CORE)
        )
        eventually(lambda: running.counters()["zmq_topics_wanted"] >= wanted)
        return socket

    yield connect
    context.destroy(linger=0)


CORE = [b"hashblock", b"hashtx", b"rawblock", b"rawtx", b"sequence"]


def test_an_unmodified_core_subscriber_hears_what_a_node_would_say(rings, subscribe):
    with running_worker(rings) as running:
        socket = subscribe(running, *CORE)
        added = Mempool(MempoolAction.ADDED, 3, b"raw").pack()
        rings.publish(Kind.MEMPOOL, added, hash=HASH)
        number = rings.block([b"coinbase", b"tx"], HASH)
        rings.tip(TipAction.CONNECTED, HASH, number)
        heard = {topic: [] for topic in CORE}
        for _ in range(10):
            topic, body, counter = socket.recv_multipart()
            assert struct.unpack("<I", counter)[0] == len(heard[topic])
            heard[topic].append(body)
        assert heard == {
            b"hashblock": [HASH[::-1]],
            b"rawblock": [block_payload([b"coinbase", b"tx"])[:91]],
            b"hashtx": [HASH[::-1], txid_of(0)[::-1], txid_of(1)[::-1]],
            b"rawtx": [b"raw", b"coinbase", b"tx"],
            b"sequence": [HASH[::-1] + b"A" + struct.pack("<Q", 3), HASH[::-1] + b"C"],
        }


def test_native_topics_carry_header_payload_and_end(rings, subscribe):
    gaps = []
    decoder = ZmqDecoder(Numbering(lambda *gap: gaps.append(gap), None, by_topic=True))
    payload = bytes(300_000)
    with running_worker(rings) as running:
        socket = subscribe(running, b"sprint.blocks.", b"sprint.tx.")
        rings.header(5)
        rings.publish(Kind.BLOCK, payload, hash=HASH)
        rings.publish(Kind.TX, b"raw", hash=HASH)
        rings.header(6)
        frames = []
        while len(frames) < 4:
            parts = socket.recv_multipart()
            frame = decoder.decode(parts)
            assert parts[0] == TOPICS[frame.kind]
            frames.append(frame)
        by_kind = {frame.kind: frame for frame in frames}
        assert by_kind[Kind.BLOCK].payload == payload
        assert by_kind[Kind.TX].payload == b"raw"
        assert [f.height for f in frames if f.kind == Kind.HEADER] == [5, 6]
        assert gaps == []


def test_the_previous_number_is_the_topics_own(rings, subscribe):
    with running_worker(rings) as running:
        socket = subscribe(running, TOPICS[Kind.HEADER])
        decoder = ZmqDecoder(Numbering(None, None, by_topic=True))
        rings.header()
        rings.publish(Kind.TIP, bytes(80))
        rings.header()
        first, second = (decoder.decode(socket.recv_multipart()) for _ in range(2))
        assert (first.sequence, second.sequence, second.previous) == (1, 3, 1)


def test_nobody_listening_costs_no_message(rings):
    with running_worker(rings) as running:
        rings.tip(TipAction.CONNECTED, HASH, rings.block([b"x"], HASH))
        rings.header()
        eventually(lambda: running.worker._zmq._lines[Kind.HEADER].last == 3)
        assert running.counters()["zmq_sent"] == 0


def test_a_heartbeat_names_the_last_number_of_every_topic(rings, subscribe):
    gaps = []
    decoder = ZmqDecoder(Numbering(lambda *gap: gaps.append(gap), None, by_topic=True))
    with running_worker(rings) as running:
        socket = subscribe(running, b"sprint.")
        rings.header()
        while decoder.decode(socket.recv_multipart()) is None:
            pass
        while True:
            parts = socket.recv_multipart()
            if parts[0] == HEARTBEAT_TOPIC:
                break
        assert decoder.decode(parts) is None
        assert gaps == []


def test_what_pub_dropped_at_its_high_water_mark_shows_as_a_hole(rings, subscribe):
    gaps = []
    decoder = ZmqDecoder(Numbering(lambda *gap: gaps.append(gap), None, by_topic=True))
    with running_worker(rings, zmq_high_water_mark=2) as running:
        socket = subscribe(running, TOPICS[Kind.BLOCK], RCVHWM=1, RCVBUF=4_096)
        for number in range(1, 41):
            rings.publish(Kind.BLOCK, bytes(1 << 20), hash=bytes([number]) * 32)
            eventually(lambda n=number: running.worker._zmq._lines[Kind.BLOCK].last >= n)
        eventually(lambda: running.counters()["zmq_sent"] == 40, running.counters)
        seen = [decoder.decode(socket.recv_multipart()).sequence for _ in range(3)]
        rings.publish(Kind.BLOCK, bytes(8), hash=HASH)
        while seen[-1] != 41:
            frame = decoder.decode(socket.recv_multipart())
            seen.append(frame.sequence)
            if seen[-1] == 41:
                break
            if not socket.poll(200):
                rings.publish(Kind.BLOCK, bytes(8), hash=secrets.token_bytes(32))
                break
        assert len(seen) < 41


def test_a_curve_server_is_heard_by_those_who_know_its_key_alone(rings, subscribe):
    public, secret = zmq.curve_keypair()
    own_public, own_secret = zmq.curve_keypair()
    with running_worker(rings, zmq_curve_secret_key=secret.decode()) as running:
        keys = {
            "CURVE_SERVERKEY": public,
            "CURVE_PUBLICKEY": own_public,
            "CURVE_SECRETKEY": own_secret,
        }
        socket = subscribe(running, b"hashblock", **keys)
        context = zmq.Context()
        stranger = context.socket(zmq.SUB)
        stranger.setsockopt(zmq.SUBSCRIBE, b"")
        stranger.connect(f"tcp://127.0.0.1:{running.worker.zmq_port}")
        rings.tip(TipAction.CONNECTED, HASH, 0)
        assert socket.recv_multipart()[1] == HASH[::-1]
        assert not stranger.poll(0)
        context.destroy(linger=0)


def test_a_key_that_is_none_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"relay\.zmq_curve_key_file: holds no"):
        ZmqPublisher(high_water_mark=10, curve_secret_key="short")


def test_a_taken_port_is_a_host_error():
    first, second = ZmqPublisher(high_water_mark=10), ZmqPublisher(high_water_mark=10)
    try:
        port = first.bind("zmq_port", "127.0.0.1", 0)
        with pytest.raises(HostError, match=rf"cannot listen on 127.0.0.1:{port}"):
            second.bind("zmq_port", "127.0.0.1", port)
    finally:
        first.close()
        second.close()


def test_subscriptions_to_topics_that_do_not_exist_are_not_remembered(rings, subscribe):
    with running_worker(rings) as running:
        socket = subscribe(running, *(b"junk%d" % number for number in range(50)))
        socket.setsockopt(zmq.SUBSCRIBE, b"hash")
        running.wait_for(zmq_topics_wanted=2)
        assert running.worker._zmq._prefixes == {b"hash"}
        socket.setsockopt(zmq.UNSUBSCRIBE, b"hash")
        running.wait_for(zmq_topics_wanted=0)
