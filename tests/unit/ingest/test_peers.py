"""Which address is tried when: configured ones only, with growing waits, bans and variety."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.ingest.p2p_causes import Cause
from bitcoin_sprint.ingest.peers import (
    ADDRESSES_PER_SEED_MAX,
    FAILURES_MAX,
    AddressBook,
    PeerAddress,
    PeerPolicy,
    resolve_host,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Resolver:
    """DNS by a table; writes down who was asked for."""

    def __init__(self, **hosts: Sequence[str]) -> None:
        self.hosts = {name.replace("_", "."): list(found) for name, found in hosts.items()}
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        if name not in self.hosts:
            raise OSError("no such host")
        return self.hosts[name]


FIXED = PeerAddress("127.0.0.1", 18444)


def book(clock: Clock | None = None, resolver: Resolver | None = None) -> AddressBook:
    seeds = tuple(name for name in resolver.hosts if not name.startswith("x9.")) if resolver else ()
    return AddressBook(
        default_port=8333,
        dns_seeds=seeds,
        resolver=resolver,
        clock=clock or Clock(),
        randomness=random.Random(1),
    )


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1", "127.0.0.1", 8333),
        ("127.0.0.1:18444", "127.0.0.1", 18444),
        ("node.example:1", "node.example", 1),
        (" node.example ", "node.example", 8333),
        ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ("[2001:db8::1]", "2001:db8::1", 8333),
        ("2001:db8::1", "2001:db8::1", 8333),
    ],
)
def test_an_address_is_read_in_every_usual_form(text: str, host: str, port: int) -> None:
    address = PeerAddress.parse(text, 8333)
    assert address == (host, port)
    assert PeerAddress.parse(str(address), 1) == address


@pytest.mark.parametrize(
    "text",
    ["", ":8333", "host:", "host:0", "host:65536", "host:x", "[::1", "[::1]x", "a b", "http://a"],
)
def test_an_address_that_is_none_is_refused_by_name(text: str) -> None:
    if text == "host:":
        assert PeerAddress.parse(text, 8333) == ("host", 8333)
        return
    with pytest.raises(ConfigError, match="peer address"):
        PeerAddress.parse(text, 8333)


def test_addresses_of_one_operator_are_of_one_group() -> None:
    def group(host: str) -> str:
        return PeerAddress(host, 1).group

    assert group("1.2.3.4") == group("1.2.200.1") != group("1.3.3.4")
    assert group("2001:db8::1") == group("2001:db8:5::1") != group("2001:db9::1")
    assert group("a.example") != group("b.example")


async def test_waits_grow_with_failures_and_shrink_after_a_stable_connection() -> None:
    clock, policy = Clock(), PeerPolicy()
    addresses = book(clock)
    waits = [addresses.release(FIXED, Cause.LOST, 0.0) for _ in range(12)]
    for number, wait in enumerate(waits):
        bound = min(policy.backoff_s * 2.0**number, policy.backoff_fixed_max_s)
        assert bound / 2 <= wait <= bound
    assert len(set(waits[6:])) > 1  # jitter
    wait = addresses.release(FIXED, Cause.LOST, policy.stable_s)
    assert wait <= policy.backoff_s


async def test_a_fixed_peer_that_is_away_or_of_another_network_is_not_left_alone_for_long() -> None:
    """Its operator named it, and starts it again when it suits him."""
    policy = PeerPolicy()
    addresses = book(Clock())
    for _ in range(20):
        away = addresses.release(FIXED, Cause.UNREACHABLE, 0.0)
        other = addresses.release(FIXED, Cause.WRONG_MAGIC, 0.0)
    assert away <= policy.backoff_absent_max_s
    assert other <= policy.backoff_fixed_max_s
    assert addresses.snapshot()["bans"] == 0


async def test_a_liar_is_banned_for_longer_each_time() -> None:
    clock, policy = Clock(), PeerPolicy()
    addresses = book(clock)
    assert addresses.release(FIXED, Cause.BAD_BLOCK, 100.0) == policy.ban_s
    assert addresses.is_banned(FIXED)
    clock.now += policy.ban_s
    assert not addresses.is_banned(FIXED)
    assert await addresses.acquire(FIXED) == FIXED
    assert addresses.release(FIXED, Cause.MALFORMED, 0.0) == policy.ban_s * 2
    for _ in range(20):
        wait = addresses.release(FIXED, Cause.MALFORMED, 0.0)
    assert wait == policy.ban_max_s
    assert addresses.snapshot()["bans"] == 22


async def test_a_banned_peer_is_not_handed_out() -> None:
    clock = Clock()
    addresses = book(clock)
    addresses.release(FIXED, Cause.BAD_BLOCK, 0.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await addresses.acquire(FIXED)


async def test_an_unfit_peer_waits_but_is_not_banned() -> None:
    addresses = book()
    assert addresses.release(FIXED, Cause.OLD_PROTOCOL, 0.0) == PeerPolicy().unfit_s
    assert not addresses.is_banned(FIXED)


async def test_nothing_is_found_or_asked_without_dns_seeds() -> None:
    addresses = book()
    assert not addresses.finds_peers
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await addresses.acquire()


async def test_a_seed_is_asked_for_peers_with_the_right_services_first() -> None:
    resolver = Resolver(seed_a=["9.9.9.9"], x9_seed_a=["8.8.8.8"], seed_b=["1.1.1.1"])
    addresses = book(resolver=resolver)
    found = {await addresses.acquire(), await addresses.acquire()}
    assert found == {PeerAddress("8.8.8.8", 8333), PeerAddress("1.1.1.1", 8333)}
    assert resolver.asked == ["x9.seed.a", "x9.seed.b", "seed.b"]


async def test_a_seed_that_fails_is_passed_over() -> None:
    resolver = Resolver(seed_a=["9.9.9.9"])
    addresses = AddressBook(
        default_port=1, dns_seeds=("gone.example", "seed.a"), resolver=resolver, clock=Clock()
    )
    assert await addresses.acquire() == PeerAddress("9.9.9.9", 1)


async def test_seeds_are_not_asked_again_before_their_interval() -> None:
    clock = Clock()
    resolver = Resolver(seed_a=[])
    addresses = book(clock, resolver)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await addresses.acquire()
    assert resolver.asked.count("seed.a") == 1
    clock.now += PeerPolicy().seed_interval_s
    resolver.hosts["seed.a"] = ["9.9.9.9"]
    assert await addresses.acquire() == PeerAddress("9.9.9.9", 8333)


async def test_a_seed_can_not_point_us_into_our_own_network() -> None:
    inside = ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fe80::1", "169.254.1.1", "name"]
    addresses = book(resolver=Resolver(seed_a=[*inside, "9.9.9.9"]))
    assert await addresses.acquire() == PeerAddress("9.9.9.9", 8333)
    assert addresses.snapshot()["addresses_found"] == 1


async def test_one_seed_names_a_bounded_number_of_peers() -> None:
    many = [f"9.9.{number // 250}.{number % 250}" for number in range(1_000)]
    addresses = book(resolver=Resolver(seed_a=many))
    await addresses.acquire()
    assert addresses.snapshot()["addresses_found"] == ADDRESSES_PER_SEED_MAX


async def test_an_address_is_handed_out_to_one_at_a_time_and_other_groups_come_first() -> None:
    found = ["9.9.0.1", "9.9.0.2", "9.9.0.3", "8.8.0.1"]
    addresses = book(resolver=Resolver(seed_a=found))
    handed = [await addresses.acquire() for _ in range(4)]
    assert len(set(handed)) == 4
    assert len({address.group for address in handed[:2]}) == 2


async def test_a_found_address_that_keeps_failing_is_forgotten_a_fixed_one_never() -> None:
    clock = Clock()
    addresses = book(clock, Resolver(seed_a=["9.9.9.9"]))
    address = await addresses.acquire()
    for _ in range(FAILURES_MAX):
        addresses.release(address, Cause.UNREACHABLE, 0.0)
        addresses.release(FIXED, Cause.UNREACHABLE, 0.0)
    assert addresses.snapshot()["addresses_found"] == 0
    clock.now += 100
    assert await addresses.acquire(FIXED) == FIXED


async def test_a_host_is_resolved_by_the_operating_system() -> None:
    assert "127.0.0.1" in await resolve_host("127.0.0.1")
