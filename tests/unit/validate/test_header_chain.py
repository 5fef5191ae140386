"""The header chain takes what keeps every rule, prefers most work first seen, and comes back."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from made_blocks import REGTEST, REGTEST_BITS, mine

from bitcoin_sprint.chains import Checkpoint, Network, Retarget, network
from bitcoin_sprint.errors import HeaderRefused
from bitcoin_sprint.validate import HeaderChain, HeaderEntry, decode_bits, encode_bits, work_of

T0 = 1_700_000_000
NOW = T0 + 10_000_000.0


def changed(net: Network = REGTEST, **changes: object) -> Network:
    fields = {name: getattr(net, name) for name in net.__struct_fields__}
    return Network(**{**fields, **changes})


def extend(
    chain: HeaderChain, parent: HeaderEntry, count: int, *, start: int = T0, mark: int = 0
) -> list[HeaderEntry]:
    """``count`` new headers on ``parent``, ten minutes apart."""
    entries = []
    for _ in range(count):
        time = start + 600 * (parent.height + 1)
        header = mine(parent.hash, bytes([mark]) * 32, time, net=chain.network)
        parent = chain.add(header, NOW)
        assert parent.new
        entries.append(parent)
    return entries


def refusal(chain: HeaderChain, header: bytes, now: float = NOW) -> str:
    with pytest.raises(HeaderRefused) as caught:
        chain.add(header, now)
    return caught.value.reason


@pytest.fixture
def chain() -> HeaderChain:
    return HeaderChain.open(REGTEST)


def test_it_starts_at_the_genesis_block(chain: HeaderChain) -> None:
    assert chain.best == chain.root
    assert chain.best.hash == REGTEST.genesis_hash
    assert (chain.best.height, chain.best.work, len(chain)) == (0, 2, 1)
    assert chain.get(REGTEST.genesis_hash) == chain.best
    assert REGTEST.genesis_hash in chain


def test_a_header_gets_its_height_and_the_work_of_its_chain(chain: HeaderChain) -> None:
    entries = extend(chain, chain.root, 30)
    assert [entry.height for entry in entries] == list(range(1, 31))
    assert [entry.work for entry in entries] == [2 * (i + 2) for i in range(30)]
    assert all(b.parent == a.hash for a, b in pairwise(entries))
    assert chain.best.hash == entries[-1].hash
    assert chain.tip_work == 62
    assert chain.header(entries[3].hash) == entries[3].header


def test_a_known_header_is_not_new(chain: HeaderChain) -> None:
    (entry,) = extend(chain, chain.root, 1)
    again = chain.add(entry.header, NOW)
    assert (again.new, again.hash, len(chain)) == (False, entry.hash, 2)
    assert not chain.add(REGTEST.genesis, NOW).new


def test_of_equal_work_the_first_seen_stays_best(chain: HeaderChain) -> None:
    first = extend(chain, chain.root, 3, mark=1)
    second = extend(chain, chain.root, 3, mark=2)
    assert chain.best.hash == first[-1].hash
    (overtaking,) = extend(chain, second[-1], 1, mark=2)
    assert chain.best.hash == overtaking.hash


def test_an_unknown_parent_is_reported_with_its_hash(chain: HeaderChain) -> None:
    orphan = mine(b"\x77" * 32)
    with pytest.raises(HeaderRefused, match="77" * 32) as caught:
        chain.add(orphan, NOW)
    assert caught.value.reason == "prev-unknown"


def test_an_unknown_parent_without_work_is_just_bad(chain: HeaderChain) -> None:
    orphan = bytearray(mine(b"\x77" * 32))
    orphan[72:76] = (0x1D00FFFF).to_bytes(4, "little")
    assert refusal(chain, bytes(orphan)) == "high-hash"


def test_a_cut_header_is_truncated(chain: HeaderChain) -> None:
    assert refusal(chain, REGTEST.genesis[:79]) == "truncated"


def test_another_target_than_the_chain_requires_is_bad_diffbits(chain: HeaderChain) -> None:
    harder = mine(chain.root.hash, bits=0x207FFFFE)
    assert refusal(chain, harder) == "bad-diffbits"


def test_a_header_must_be_later_than_the_median_of_eleven(chain: HeaderChain) -> None:
    entries = extend(chain, chain.root, 12)
    times = [int.from_bytes(entry.header[68:72], "little") for entry in entries[1:]]
    median = sorted(times)[5]
    assert chain.median_time_past(entries[-1].hash) == median
    assert refusal(chain, mine(entries[-1].hash, time=median)) == "time-too-old"
    assert chain.add(mine(entries[-1].hash, time=median + 1), NOW).new


def test_near_the_root_the_median_is_of_what_there_is(chain: HeaderChain) -> None:
    genesis_time = 1_296_688_602
    assert chain.median_time_past(chain.root.hash) == genesis_time
    assert refusal(chain, mine(chain.root.hash, time=genesis_time)) == "time-too-old"
    (first,) = extend(chain, chain.root, 1)
    assert chain.median_time_past(first.hash) == T0 + 600


def test_a_header_from_the_future_may_come_again_later(chain: HeaderChain) -> None:
    header = mine(chain.root.hash, time=T0)
    assert refusal(chain, header, now=T0 - 7_200 - 1) == "time-too-new"
    assert chain.add(header, now=T0 - 7_200).new


@pytest.mark.parametrize(("version", "height"), [(1, 2), (2, 3), (3, 4), (0, 2), (-1, 2)])
def test_versions_die_out(version: int, height: int) -> None:
    net = changed(bip34_height=2, bip66_height=3, bip65_height=4)
    chain = HeaderChain.open(net)
    entries = [chain.root, *extend(chain, chain.root, 5)]
    early = mine(entries[height - 2].hash, time=T0 + 5_000, version=version)
    late = mine(entries[height - 1].hash, time=T0 + 6_000, version=version)
    assert chain.add(early, NOW).new
    assert refusal(chain, late) == "bad-version"


def test_timewarp_is_refused_at_the_start_of_a_period() -> None:
    retarget = Retarget(timespan_seconds=7_200, retargets=False, timewarp_seconds_max=600)
    chain = HeaderChain.open(changed(retarget=retarget))
    parent = extend(chain, chain.root, 11)[-1]
    last = int.from_bytes(parent.header[68:72], "little")
    assert refusal(chain, mine(parent.hash, time=last - 601)) == "time-timewarp-attack"
    starts = chain.add(mine(parent.hash, time=last - 600), NOW)
    assert starts.height == 12
    assert chain.add(mine(starts.hash, time=last - 1_500), NOW).height == 13


def test_a_path_disconnects_down_to_the_fork_and_connects_up_from_it(chain: HeaderChain) -> None:
    trunk = extend(chain, chain.root, 5)
    left = extend(chain, trunk[-1], 3, mark=1)
    right = extend(chain, trunk[-1], 4, mark=2)
    disconnect, connect = chain.path(left[-1].hash, right[-1].hash)
    assert [entry.hash for entry in disconnect] == [entry.hash for entry in left[::-1]]
    assert [entry.hash for entry in connect] == [entry.hash for entry in right]
    assert chain.fork(left[-1].hash, right[-1].hash).hash == trunk[-1].hash
    assert chain.path(trunk[0].hash, trunk[0].hash) == ([], [])
    assert [entry.height for entry in chain.path(trunk[1].hash, left[0].hash)[1]] == [3, 4, 5, 6]
    with pytest.raises(KeyError):
        chain.path(left[-1].hash, b"\x01" * 32)


def test_ancestors_are_found_at_every_height(chain: HeaderChain) -> None:
    entries = [chain.root, *extend(chain, chain.root, 70)]
    for height, entry in enumerate(entries):
        assert chain.ancestor(entries[-1].hash, height).hash == entry.hash
    for height in (-1, 71):
        with pytest.raises(KeyError):
            chain.ancestor(entries[-1].hash, height)


def test_a_locator_thins_out_towards_the_root(chain: HeaderChain) -> None:
    assert chain.locator() == [chain.root.hash]
    entries = [chain.root, *extend(chain, chain.root, 60)]
    heights = [entry.height for hash in chain.locator() if (entry := chain.get(hash))]
    assert heights[:10] == list(range(60, 50, -1))
    assert heights[10:] == [49, 45, 37, 21, 0]
    assert chain.locator(entries[1].hash) == [entries[1].hash, chain.root.hash]


def test_headers_after_a_locator_are_those_of_the_best_chain(chain: HeaderChain) -> None:
    trunk = extend(chain, chain.root, 10)
    side = extend(chain, trunk[4], 2, mark=1)
    headers = [entry.header for entry in trunk]
    assert chain.headers_after([b"\x01" * 32]) == headers
    assert chain.headers_after([side[-1].hash, trunk[4].hash]) == headers[5:]
    assert chain.headers_after([trunk[4].hash], limit=2) == headers[5:7]
    assert chain.headers_after([trunk[4].hash], stop=trunk[6].hash) == headers[5:7]
    assert chain.headers_after([trunk[4].hash], stop=trunk[2].hash) == headers[5:]
    assert chain.headers_after([trunk[4].hash], stop=side[-1].hash) == headers[5:]
    assert chain.headers_after([trunk[-1].hash]) == []


def test_work_below_the_tip_marks_what_is_cheap_to_forge(chain: HeaderChain) -> None:
    entries = [chain.root, *extend(chain, chain.root, 150)]
    assert chain.work_below_tip(entries[5].hash)
    assert not chain.work_below_tip(entries[6].hash)
    assert not chain.work_below_tip(entries[-1].hash)
    assert chain.work_below_tip(entries[140].hash, blocks=5)
    assert not chain.work_below_tip(entries[5].hash, tip=entries[149].hash)
    with pytest.raises(KeyError):
        chain.work_below_tip(b"\x01" * 32)


def test_a_condemned_block_and_what_stands_on_it_is_never_best(chain: HeaderChain) -> None:
    trunk = extend(chain, chain.root, 3)
    bad = extend(chain, trunk[-1], 3, mark=1)
    good = extend(chain, trunk[-1], 1, mark=2)
    chain.condemn(bad[0].hash)
    assert chain.best.hash == good[0].hash
    assert chain.is_condemned(bad[2].hash)
    assert not chain.is_condemned(trunk[2].hash)
    assert refusal(chain, mine(bad[2].hash, time=T0 + 10**5)) == "bad-prevblk"
    assert refusal(chain, bad[1].header) == "bad-prevblk"
    chain.absolve(bad[2].hash)
    assert chain.best.hash == bad[2].hash
    chain.condemn(chain.root.hash)
    assert chain.best.hash == bad[2].hash


def test_low_work_headers_off_the_best_chain_are_bounded() -> None:
    chain = HeaderChain.open(REGTEST, side_headers_max=5)
    trunk = extend(chain, chain.root, 160)
    for mark in range(1, 6):
        extend(chain, chain.root, 1, mark=mark)
    one_more = mine(chain.root.hash, bytes([9]) * 32, T0 + 600)
    assert refusal(chain, one_more) == "too-many-side-headers"
    assert extend(chain, trunk[-3], 1, mark=9)  # near the tip work is proof enough
    assert extend(chain, trunk[-1], 1)


def test_the_number_of_headers_is_bounded() -> None:
    chain = HeaderChain.open(REGTEST, capacity_max=10)
    extend(chain, chain.root, 9)
    header = mine(chain.best.hash, time=T0 + 10_000)
    assert refusal(chain, header) == "too-many-headers"


def test_the_chain_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    with HeaderChain.open(REGTEST, path) as chain:
        trunk = extend(chain, chain.root, 20)
        chain.save()
        side = extend(chain, trunk[10], 3, mark=1)
        best = chain.best
    with HeaderChain.open(REGTEST, path) as chain:
        assert chain.best == best
        assert len(chain) == 24
        assert chain.get(side[-1].hash) == side[-1]._replace(new=False)
        extend(chain, chain.best, 2)
    with HeaderChain.open(REGTEST, path) as chain:
        assert chain.best.height == 22


def test_what_was_not_saved_is_lost_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    chain = HeaderChain.open(REGTEST, path)
    trunk = extend(chain, chain.root, 20)
    chain.save()
    chain.save()
    saved = path.read_bytes()
    extend(chain, trunk[-1], 5)
    chain.close()
    path.write_bytes(saved + path.read_bytes()[len(saved) : -1])
    with HeaderChain.open(REGTEST, path) as again:
        assert again.best.height == 20


def test_a_checkpoint_is_a_root_with_a_past(chain: HeaderChain, tmp_path: Path) -> None:
    whole = [chain.root, *extend(chain, chain.root, 40)]
    start = whole[20]
    times = tuple(int.from_bytes(entry.header[68:72], "little") for entry in whole)
    checkpoint = Checkpoint(
        height=20, header=start.header, work=start.work, recent_times=times[10:20],
        period_start_time=times[0], period_start_bits=REGTEST_BITS, real_bits=REGTEST_BITS,
    )  # fmt: skip
    net = changed(checkpoint=checkpoint)
    with HeaderChain.open(net, tmp_path / "headers") as partial:
        assert partial.root == start._replace(new=False)
        for entry in whole[20:25]:
            partial.add(entry.header, NOW)
            for_whole = chain.median_time_past(entry.hash)
            assert partial.median_time_past(entry.hash) == for_whole
        assert partial.best.work == whole[24].work
        assert partial.locator() == [entry.hash for entry in whole[24:19:-1]]
        with pytest.raises(KeyError):
            partial.ancestor(partial.best.hash, 19)
    with HeaderChain.open(net, tmp_path / "headers") as partial:
        assert partial.best.height == 24


def test_from_a_checkpoint_the_first_retarget_is_right() -> None:
    easy = encode_bits((1 << 250) - 1)
    retarget = Retarget(timespan_seconds=6_000, spacing_seconds=600)
    net = changed(retarget=retarget, pow_limit=(1 << 255) - 1)
    root = mine(b"\x05" * 32, time=T0, bits=easy)
    checkpoint = Checkpoint(
        height=27, header=root, work=1_000, recent_times=(), period_start_time=T0 - 1_400,
        period_start_bits=easy, real_bits=easy,
    )  # fmt: skip
    chain = HeaderChain.open(changed(net, checkpoint=checkpoint))
    for i in (1, 2):
        chain.add(mine(chain.best.hash, time=T0 + 200 * i, bits=easy), NOW)
    required = chain.required_bits(chain.best.hash, T0 + 600)
    target = decode_bits(easy)
    assert target is not None
    assert required == encode_bits(target * 1_800 // 6_000)
    assert chain.add(mine(chain.best.hash, time=T0 + 600, bits=required), NOW).height == 30
    assert chain.best.work == 1_000 + 2 * work_of(easy) + work_of(required)


def test_scrypt_chains_are_kept_by_the_same_code() -> None:
    net = network("litecoin-regtest")
    chain = HeaderChain.open(net)
    entries = extend(chain, chain.root, 3)
    assert chain.best.hash == entries[-1].hash
    sha_only = mine(chain.best.hash, time=T0 + 10_000)
    for nonce in range(10_000):
        header = sha_only[:76] + nonce.to_bytes(4, "little")
        if int.from_bytes(net.pow_hash(header), "little") > net.pow_limit:
            break
    assert refusal(chain, header) == "high-hash"
