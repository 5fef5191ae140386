"""A subscriber as people write it for Bitcoin Core's ZeroMQ: it knows nothing of Bitcoin Sprint."""

from __future__ import annotations

import struct
import threading
from collections import defaultdict

import zmq

TOPICS = ("hashblock", "rawblock", "hashtx", "rawtx", "sequence")


class CoreSubscriber:
    """Collects the bodies of each topic, in order, and notes every break in its numbers."""

    def __init__(self, address: str) -> None:
        self.bodies: dict[str, list[bytes]] = defaultdict(list)
        self.breaks: list[tuple[str, int, int]] = []
        self._numbers: dict[str, int] = {}
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; what was collected stays."""
        self._stop.set()
        self._thread.join()

    def heard(self, bodies: dict[str, bytes]) -> bool:
        """Whether each body came on its topic."""
        return all(body in self.bodies[topic] for topic, body in bodies.items())

    def after(self, topic: str, body: bytes) -> list[bytes]:
        """What came on ``topic`` behind ``body``."""
        return self.bodies[topic][self.bodies[topic].index(body) + 1 :]

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.LINGER, 0)
            for topic in reversed(TOPICS):  # the block's topics last: heard, all are subscribed
                socket.subscribe(topic)
            socket.connect(self._address)
            while not self._stop.is_set():
                if socket.poll(50):
                    self._take(*socket.recv_multipart())

    def _take(self, topic_bytes: bytes, body: bytes, number_bytes: bytes) -> None:
        topic = topic_bytes.decode()
        (number,) = struct.unpack("<I", number_bytes)
        expected = self._numbers.get(topic, number - 1) + 1
        if number != expected:
            self.breaks.append((topic, expected, number))
        self._numbers[topic] = number
        self.bodies[topic].append(body)
