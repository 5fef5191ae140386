"""Which peers to connect to: fixed ones, and ones that DNS seeds name if the operator allows it.

Nothing is ever contacted that the configuration does not name: neither a peer, nor a DNS seed, nor
an address that a peer gossips. Each address has its own record of failures, so that a peer that is
down is tried at growing, jittered intervals, and one that lied is left alone for a time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import msgspec

from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.ingest.p2p_causes import Cause

_log = logging.getLogger(__name__)

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""Host name to addresses in numbers; raises OSError where it has none."""

ADDRESSES_MAX: Final = 2_000
ADDRESSES_PER_SEED_MAX: Final = 256
FAILURES_MAX: Final = 5
"""An address found by DNS that failed so often in a row is forgotten."""
SEED_SERVICE_PREFIX: Final = "x9."
"""Seeds filter by service bits in the name: 9 is NODE_NETWORK and NODE_WITNESS."""


class PeerAddress(NamedTuple):
    """Where a peer listens. ``host`` is a name or an address in numbers, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def group(self) -> str:
        """Addresses of one group are likely run by one operator: /16 of IPv4, /32 of IPv6."""
        try:
            parsed = ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            return self.host
        prefix = 16 if parsed.version == 4 else 32
        return str(ipaddress.ip_network((parsed, prefix), strict=False))

    @classmethod
    def parse(cls, text: str, default_port: int) -> Self:
        """``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or a bare IPv6 address.

        Raises ConfigError naming the text.
        """
        host, port = text.strip(), ""
        if host.startswith("["):
            host, closing, rest = host[1:].partition("]")
            if not closing or (rest and not rest.startswith(":")):
                raise ConfigError(f"peer address {text!r}: expected [address]:port")
            port = rest[1:]
        elif host.count(":") == 1:
            host, _, port = host.partition(":")
        if not host or any(character.isspace() or character in "[]/" for character in host):
            raise ConfigError(f"peer address {text!r}: expected host:port or [address]:port")
        number = int(port) if port.isascii() and port.isdigit() else default_port if not port else 0
        if not 0 < number < 65536:
            raise ConfigError(f"peer address {text!r}: port {port!r} is not within 1 to 65535")
        return cls(host, number)


class PeerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Waits between attempts and bans, in seconds."""

    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    backoff_fixed_max_s: float = 10.0
    """For fixed peers, which the operator wants and which may be restarting."""
    backoff_absent_max_s: float = 2.0
    """For fixed peers at whose address nobody listens: an attempt there costs nobody anything."""
    unfit_s: float = 600.0
    """Wait after a peer turned out to be ourselves, too old, or without the services needed."""
    ban_s: float = 600.0
    """First ban of an address; each further one is twice as long."""
    ban_max_s: float = 86_400.0
    stable_s: float = 30.0
    """A connection that was ready for so long wipes out the failures before it."""
    seed_interval_s: float = 60.0
    """Least time between two rounds of asking the DNS seeds."""


class _Record:
    """What is known of one address."""

    __slots__ = ("bans", "failures", "in_use", "not_before")

    def __init__(self) -> None:
        self.failures = 0
        self.bans = 0
        self.not_before = 0.0
        self.in_use = False


class AddressBook:
    """Hands out addresses, one user at a time each. For one event loop.

    ``dns_seeds`` empty: only fixed peers are ever used. ``clock``: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        default_port: int,
        dns_seeds: Sequence[str] = (),
        policy: PeerPolicy | None = None,
        resolver: Resolver | None = None,
        clock: Callable[[], float] = time.monotonic,
        randomness: random.Random | None = None,
    ) -> None:
        self._default_port = default_port
        self._dns_seeds = tuple(dns_seeds)
        self._policy = policy or PeerPolicy()
        self._resolver = resolver or resolve_host
        self._clock = clock
        self._random = randomness or random.Random()
        self._records: dict[PeerAddress, _Record] = {}
        self._found: set[PeerAddress] = set()
        self._seeds_asked_at: float | None = None
        self._seeds_lock = asyncio.Lock()
        self.bans = 0

    async def acquire(self, fixed: PeerAddress | None = None) -> PeerAddress:
        """The address to connect to next, once its wait is over; ``release`` it afterwards.

        ``fixed``: that one alone; otherwise one that the DNS seeds named.
        """
        while True:
            address = fixed if fixed is not None else self._choose()
            if address is None:
                await asyncio.sleep(await self._ask_seeds())
                continue
            record = self._records.setdefault(address, _Record())
            wait = record.not_before - self._clock()
            if wait <= 0:
                record.in_use = True
                return address
            await asyncio.sleep(wait)

    def release(self, address: PeerAddress, cause: Cause, ready_s: float) -> float:
        """A connection to ``address`` ended; ``ready_s`` is how long it worked.

        Returns the seconds until the address may be tried again.
        """
        record = self._records.setdefault(address, _Record())
        policy = self._policy
        is_found = address in self._found
        record.in_use = False
        if cause is Cause.WRONG_MAGIC and not is_found:
            # The operator named it, and may give the address another node at any time.
            wait = policy.backoff_fixed_max_s
        elif cause.is_lie:
            record.bans += 1
            self.bans += 1
            wait = min(policy.ban_s * 2.0 ** min(record.bans - 1, 30), policy.ban_max_s)
        elif cause.is_unfit:
            wait = policy.unfit_s
        else:
            record.failures = 1 if ready_s >= policy.stable_s else record.failures + 1
            longest = policy.backoff_max_s
            if not is_found:
                is_absent = cause is Cause.UNREACHABLE
                longest = policy.backoff_absent_max_s if is_absent else policy.backoff_fixed_max_s
            bound = policy.backoff_s * 2.0 ** min(record.failures - 1, 30)
            # Jitter, so that many clients of one peer spread out.
            wait = min(bound, longest) * self._random.uniform(0.5, 1.0)
            if record.failures >= FAILURES_MAX:
                self._found.discard(address)
        record.not_before = self._clock() + wait
        self._forget_some()
        return wait

    def is_banned(self, address: PeerAddress) -> bool:
        record = self._records.get(address)
        return record is not None and record.bans > 0 and record.not_before > self._clock()

    @property
    def finds_peers(self) -> bool:
        """Whether there are DNS seeds to ask."""
        return bool(self._dns_seeds)

    def snapshot(self) -> Mapping[str, Any]:
        """Counts for the operator."""
        return {
            "addresses_found": len(self._found),
            "addresses_in_use": sum(record.in_use for record in self._records.values()),
            "bans": self.bans,
        }

    def _choose(self) -> PeerAddress | None:
        """A found address that may be tried now, of a group not in use if there is one."""
        now = self._clock()
        groups = {address.group for address, record in self._records.items() if record.in_use}
        free = [address for address in self._found if self._is_free(address, now)]
        if not free:
            return None
        fresh = [address for address in free if address.group not in groups]
        return self._random.choice(sorted(fresh or free))

    def _is_free(self, address: PeerAddress, now: float) -> bool:
        record = self._records.get(address)
        return record is None or (not record.in_use and record.not_before <= now)

    async def _ask_seeds(self) -> float:
        """Ask every seed, unless that was done lately; returns how long to wait now."""
        if not self._dns_seeds:
            return self._policy.seed_interval_s
        async with self._seeds_lock:
            now, last = self._clock(), self._seeds_asked_at
            interval = self._policy.seed_interval_s
            if last is not None and now - last < interval:
                # Others' waits may end before that.
                return min(interval - (now - last), 1.0)
            self._seeds_asked_at = now
            before = len(self._found)
            for seed in self._dns_seeds:
                await self._ask_seed(seed)
            _log.info(
                "DNS seeds asked",
                extra={"seeds": len(self._dns_seeds), "addresses": len(self._found) - before},
            )
            return 0.0

    async def _ask_seed(self, seed: str) -> None:
        for name in (SEED_SERVICE_PREFIX + seed, seed):
            try:
                hosts = await self._resolver(name)
            except OSError as error:
                _log.debug("DNS seed failed", extra={"seed": name, "error": str(error)})
                continue
            for host in hosts[:ADDRESSES_PER_SEED_MAX]:
                if len(self._found) < ADDRESSES_MAX and _is_public(host):
                    self._found.add(PeerAddress(host, self._default_port))
            if hosts:
                return

    def _forget_some(self) -> None:
        """Keep the records bounded: those that wait for nothing go first."""
        if len(self._records) <= 2 * ADDRESSES_MAX:
            return
        now = self._clock()
        for address in [a for a, r in self._records.items() if not r.in_use and r.not_before < now]:
            del self._records[address]


async def resolve_host(name: str) -> Sequence[str]:
    """Addresses of a host name, asked of the operating system."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _is_public(host: str) -> bool:
    """A seed has no business naming addresses inside our own network."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False
