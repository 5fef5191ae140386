"""The simulated chain stays valid whatever is asked of it; Bitcoin Core's own code is the judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest.simulator.blocks import WEIGHT_MAX, SimBlock
from bitcoin_sprint.ingest.simulator.chain import SimChain

NOW = 1_760_000_000


def chain_of(seed: int = 1, **options: Any) -> tuple[SimChain, list[SimBlock]]:
    chain = SimChain(network("regtest"), seed=seed, **{"coins_target": 4_000, **options})
    return chain, chain.prepare(NOW)


def busy_chain(seed: int = 1, **options: Any) -> tuple[SimChain, list[SimBlock]]:
    """A chain on which everything happened that can: plain, full, filled and reorganised blocks."""
    chain, blocks = chain_of(seed, **options)
    for index in range(12):
        chain.make_transactions(300 + 50 * index)
        blocks.append(chain.mine(NOW + index, count=400))
        if index % 3 == 2:
            depth = 1 + index // 3
            blocks += chain.reorganise(depth, NOW + index).connected
    for weight in (2_000, 123_457, 3_999_999, WEIGHT_MAX):
        chain.make_transactions(100)
        blocks.append(chain.mine(NOW + 20, weight=weight))
        assert blocks[-1].weight == weight
    blocks += chain.reorganise(4, NOW + 30).connected
    return chain, blocks


def test_bitcoin_cores_kernel_accepts_every_block(pbk: ModuleType, tmp_path: Path) -> None:
    chain, blocks = busy_chain(seed=5, coins_target=12_000)
    judge = pbk.load_chainman(tmp_path, pbk.ChainType.REGTEST)
    for block in blocks:
        assert judge.process_block(pbk.Block(block.raw)), f"refused at height {block.height}"
    best = judge.get_active_chain()
    assert best.height == chain.height
    assert bytes.fromhex(str(best.block_tree_entries[-1].block_hash))[::-1] == chain.tip


def test_a_bitcoind_accepts_every_block(bitcoind: Any) -> None:
    chain, blocks = busy_chain(seed=6)
    node = bitcoind.start()
    for block in blocks:
        # "inconclusive": stored, but on a branch that is not the best yet.
        assert node.rpc("submitblock", block.raw.hex()) in (None, "inconclusive")
    assert node.rpc("getbestblockhash") == chain.tip[::-1].hex()
    full = node.rpc("getblock", blocks[-6].hash[::-1].hex())
    assert full["weight"] == WEIGHT_MAX


def test_a_bitcoinds_mempool_takes_the_transactions(bitcoind: Any) -> None:
    chain, blocks = chain_of(seed=7, legacy_share=0.0)
    node = bitcoind.start()
    for block in blocks:
        node.rpc("submitblock", block.raw.hex())
    made = chain.make_transactions(50)
    for each in made:
        assert node.rpc("sendrawtransaction", each.raw.hex(), 0) == each.txid[::-1].hex()


def test_the_same_seed_gives_the_same_chain() -> None:
    first, first_blocks = busy_chain(seed=2)
    second, second_blocks = busy_chain(seed=2)
    assert [block.raw for block in first_blocks] == [block.raw for block in second_blocks]
    assert first.tip == second.tip
    assert busy_chain(seed=3)[0].tip != first.tip


def test_nothing_announced_is_lost_in_a_reorg() -> None:
    chain, _ = chain_of()
    announced = {each.txid for each in chain.make_transactions(900)}
    for _ in range(3):
        chain.mine(NOW + 1, count=300)
    reorg = chain.reorganise(3, NOW + 2, count=1_000)
    mined = {each.txid for block in reorg.connected for each in block.transactions}
    assert mined == announced
    assert len(reorg.disconnected) == 3
    assert len(reorg.connected) == 4
    assert reorg.connected[0].previous == reorg.disconnected[-1].previous
    assert not chain.mempool


def test_no_coin_is_spent_twice_and_none_is_lost() -> None:
    chain, blocks = busy_chain(seed=9)
    unspent = {}
    best = [block for block in blocks if chain.height_of(block.hash) is not None]
    for block in sorted(best, key=lambda each: each.height):
        for each in (block.coinbase, *block.transactions):
            for coin in each.spent:
                del unspent[coin.outpoint]  # KeyError: spent twice, or before it was made
            unspent.update((coin.outpoint, coin) for coin in each.created)
    for each in chain.mempool:
        for coin in each.spent:
            unspent.pop(coin.outpoint, None)
    spendable = {coin.outpoint for coin in chain._spendable}
    assert spendable <= set(unspent)
    waiting = {coin.outpoint for _, coin in chain._immature}
    assert spendable | waiting == set(unspent)


def test_the_number_of_coins_stays_about_its_target() -> None:
    chain, _ = chain_of(seed=4)
    for index in range(40):
        chain.make_transactions(600)
        chain.mine(NOW + index)
    assert 2_000 <= chain.spendable_count <= 7_000


def test_bodies_stay_in_their_budget_and_the_newest_is_there() -> None:
    chain, blocks = chain_of(bodies_max_bytes=300_000)
    for index in range(5):
        chain.make_transactions(400)
        blocks.append(chain.mine(NOW + index))
    assert chain.body(blocks[-1].hash) == blocks[-1].raw
    kept = [block for block in blocks if chain.body(block.hash) is not None]
    assert sum(len(block.raw) for block in kept) <= 300_000
    assert kept == blocks[-len(kept) :]


def test_headers_follow_a_locator_through_the_stop() -> None:
    chain, blocks = chain_of()
    hashes = [chain.network.genesis_hash, *(block.hash for block in blocks)]
    stop = bytes(32)
    after_genesis = chain.headers_after([], stop, 10)
    assert after_genesis == [block.header for block in blocks[:10]]
    unknown_first = chain.headers_after([b"\xff" * 32, hashes[50], hashes[3]], stop, 2_000)
    assert unknown_first == [block.header for block in blocks[50:]]
    assert chain.headers_after([hashes[20]], hashes[24], 2_000) == [
        block.header for block in blocks[20:24]
    ]
    assert chain.headers_after([chain.tip], stop, 2_000) == []


def test_a_locator_of_the_old_branch_leads_to_the_fork() -> None:
    chain, blocks = chain_of()
    old_tip = chain.tip
    reorg = chain.reorganise(2, NOW + 1)
    assert chain.height_of(old_tip) is None
    headers = chain.headers_after([old_tip, blocks[-2].hash, blocks[-3].hash], bytes(32), 2_000)
    assert headers == [block.header for block in reorg.connected]
    assert chain.body(old_tip) == blocks[-1].raw


def test_block_times_follow_the_median_even_when_the_clock_stands() -> None:
    chain, _ = chain_of()
    times = [chain.mine(NOW).time for _ in range(30)]
    assert all(time >= NOW for time in times)
    for index in range(11, 30):
        assert times[index] > sorted(times[index - 11 : index])[5]


@pytest.mark.parametrize("depth", [0, 7])
def test_a_reorg_deeper_than_allowed_is_refused(depth: int) -> None:
    chain, _ = chain_of()
    with pytest.raises(ValueError, match="1 to 6 blocks deep"):
        chain.reorganise(depth, NOW)


@pytest.mark.parametrize("weight", [1_000, WEIGHT_MAX + 1])
def test_a_weight_that_no_block_can_have_is_refused(weight: int) -> None:
    chain, _ = chain_of()
    tip = chain.tip
    with pytest.raises(ValueError, match="weight"):
        chain.mine(NOW, weight=weight)
    assert chain.tip == tip


def test_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="regtest only"):
        SimChain(network("main"))


def test_waiting_transactions_stand_after_their_parents() -> None:
    chain, _ = chain_of()
    made = chain.make_transactions(2_000)
    seen: set[bytes] = set()
    children = 0
    own = {each.txid for each in made}
    for each in made:
        parents = {coin.outpoint[:32] for coin in each.spent} & own
        children += bool(parents)
        assert parents <= seen
        seen.add(each.txid)
    assert 50 <= children <= 200


def raws(blocks: Sequence[SimBlock]) -> list[bytes]:
    return [block.raw for block in blocks]
