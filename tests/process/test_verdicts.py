"""Real nodes and the proof agree on blocks: what is accepted, and the word for what is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from made_blocks import (
    NULL_OUTPOINT,
    REGTEST,
    Made,
    Tx,
    coinbase,
    commit,
    mine,
    pay,
    pay_with_witness,
)
from peers import Bitcoind, Litecoind, RpcError
from peers.fixtures import NodeStarter

from bitcoin_sprint.chains import Network, network
from bitcoin_sprint.errors import BlockRefused, HeaderRefused
from bitcoin_sprint.validate import HeaderChain, prove_block

COIN = 100_000_000


def on_genesis(*transactions: Tx) -> Made:
    return Made(transactions, previous=REGTEST.genesis_hash)


def committed(*others: Tx) -> Made:
    return on_genesis(commit(coinbase(1), others), *others)


def repeated() -> Made:
    others = [pay(1), pay(2)]
    block = on_genesis(coinbase(1), *others)
    return replace(block, mined_for=block.transactions, transactions=[*block.transactions, pay(2)])


def other_witness() -> Made:
    block = committed(pay_with_witness(1))
    changed = replace(block.transactions[1], witnesses=((b"other",),))
    return replace(block, transactions=[block.transactions[0], changed])


def other_nonce(*stack: bytes) -> Made:
    block = committed(pay(1))
    changed = replace(block.transactions[0], witnesses=(stack,))
    return replace(block, transactions=[changed, pay(1)])


BLOCKS: dict[str, Callable[[], Made]] = {
    "another body": lambda: replace(on_genesis(coinbase(1), pay(1)), mined_for=[coinbase(1)]),
    "a branch twice": repeated,
    "no coinbase": lambda: on_genesis(pay(1)),
    "two coinbases": lambda: on_genesis(coinbase(1), coinbase(2)),
    "a short coinbase script": lambda: on_genesis(coinbase(0, script=b"\x51")),
    "a long coinbase script": lambda: on_genesis(coinbase(0, script=b"\x51" * 101)),
    "another height": lambda: on_genesis(coinbase(2)),
    "a height in long form": lambda: on_genesis(coinbase(0, script=b"\x01\x01")),
    "no outputs": lambda: on_genesis(coinbase(1), pay(1, outputs=())),
    "a negative output": lambda: on_genesis(coinbase(1), pay(1, outputs=((-1, b""),))),
    "too much money": lambda: on_genesis(
        coinbase(1), pay(1, outputs=((21_000_000 * COIN + 1, b""),))
    ),
    "too much money in all": lambda: on_genesis(
        coinbase(1), pay(1, outputs=((21_000_000 * COIN, b""), (1, b"")))
    ),
    "a null outpoint": lambda: on_genesis(
        coinbase(1), pay(1, inputs=((bytes([3]) * 36, b""), (NULL_OUTPOINT, b"")))
    ),
    "a witness without commitment": lambda: on_genesis(coinbase(1), pay_with_witness(1)),
    "another witness": other_witness,
    "another nonce": lambda: other_nonce(bytes(32)),
    "a short nonce": lambda: other_nonce(bytes(31)),
    "two nonces": lambda: other_nonce(bytes(32), bytes(32)),
    "too heavy": lambda: committed(
        pay(1, witnesses=((bytes(3_500_000),),)), pay(2, outputs=((0, bytes(200_000)),))
    ),
    "too long without witness": lambda: on_genesis(
        coinbase(1), pay(1, outputs=((0, bytes(999_000)),)), pay(2, outputs=((0, bytes(9_000)),))
    ),
    "another target": lambda: replace(on_genesis(coinbase(1)), bits=0x207FFFFE),
    "too old": lambda: replace(on_genesis(coinbase(1)), time=1296688602),
    "from the future": lambda: replace(on_genesis(coinbase(1)), time=int(time.time()) + 8_000),
    "an unknown parent": lambda: replace(on_genesis(coinbase(1)), previous=b"\x01" * 32),
}

SAME = {"prev-unknown": "prev-blk-not-found"}
"""Our word, where it is not Core's."""


def our_word(raw: bytes) -> str | None:
    """What header chain and proof say of a block on regtest's genesis block."""
    try:
        entry = HeaderChain.open(REGTEST).add(raw[:80], time.time())
        prove_block(raw, REGTEST, height=entry.height)
    except (HeaderRefused, BlockRefused) as refused:
        return refused.reason
    return None


def test_bitcoin_core_gives_the_same_word_for_every_fault(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    node = bitcoind.start(zmq_topics=())
    found, expected = {}, {}
    for name, make in BLOCKS.items():
        raw = make().raw
        found[name] = SAME.get(word := str(our_word(raw)), word)
        expected[name] = node.rpc("submitblock", raw.hex())
    assert found == expected


def test_bitcoin_core_finds_the_rest_of_a_block_that_was_proved(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    node = bitcoind.start(zmq_topics=())
    spends_nothing = committed(pay(1), pay_with_witness(2)).raw
    assert our_word(spends_nothing) is None
    assert node.rpc("submitblock", spends_nothing.hex()) == "bad-txns-inputs-missingorspent"
    good = committed().raw
    assert our_word(good) is None
    assert node.rpc("submitblock", good.hex()) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01",
        b"\xfd\x01\x00" + coinbase(1).raw,
        b"\x01" + coinbase(1).raw[:-1],
        b"\x02" + coinbase(1).raw,
        b"\x01" + coinbase(1).base[:4] + b"\x00\x01" + coinbase(1).body + b"\x00" + bytes(4),
        b"\x01" + coinbase(1).base[:4] + b"\x00\x02" + coinbase(1).body + bytes(4),
        b"\x01" + coinbase(1).raw[:41] + b"\xfe\x01\x00\x00\x02" + bytes(100),
    ],
)
def test_what_bitcoin_core_cannot_decode_is_refused(
    bitcoind: NodeStarter[Bitcoind], body: bytes
) -> None:
    node = bitcoind.start(zmq_topics=())
    raw = mine(REGTEST.genesis_hash) + body
    with pytest.raises(RpcError, match="Block decode failed"):
        node.rpc("submitblock", raw.hex())
    with pytest.raises(BlockRefused) as caught:
        prove_block(raw, REGTEST)
    assert caught.value.mutated


def follow(node: Litecoind | Bitcoind, net: Network) -> HeaderChain:
    """A header chain of all the node has, every block on the way proved."""
    chain = HeaderChain.open(net)
    for height in range(1, node.rpc("getblockcount") + 1):
        block_hash = node.rpc("getblockhash", height)
        raw = bytes.fromhex(node.rpc("getblock", block_hash, 0))
        entry = chain.add(raw[:80], time.time())
        proved = prove_block(raw, net, height=entry.height)
        ids = [bytes(txid)[::-1].hex() for txid in proved.txids]
        assert ids == node.rpc("getblock", block_hash, 1)["tx"]
        assert (proved.hash[::-1].hex(), entry.height) == (block_hash, height)
    return chain


def test_a_regtest_node_of_bitcoin_core_is_followed(bitcoind: NodeStarter[Bitcoind]) -> None:
    node = bitcoind.start(zmq_topics=())
    node.mine(150)
    chain = follow(node, REGTEST)
    work = int(node.rpc("getblockchaininfo")["chainwork"], 16)
    assert chain.tip_work == work


def test_bitcoin_core_draws_the_timewarp_line_where_we_do(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    """Regtest under the rules of BIP94, at the first block of its second period."""
    node = bitcoind.start(["-test=bip94"], zmq_topics=())
    start = int(time.time()) - 144 * 600
    for i in range(143):
        node.rpc("setmocktime", start + 600 * i)
        node.mine()
    net = under_bip94()
    chain = follow(node, net)
    parent_time = int.from_bytes(chain.best.header[68:72], "little")
    for back, expected in ((601, "time-timewarp-attack"), (600, None)):
        time_of_block = parent_time - back
        block = Made([coinbase(144)], previous=chain.best.hash, time=time_of_block)
        assert node.rpc("submitblock", block.raw.hex()) == expected
        if expected is None:
            assert chain.add(block.raw[:80], time.time()).height == 144
            continue
        with pytest.raises(HeaderRefused, match=expected):
            chain.add(block.raw[:80], time.time())


def under_bip94() -> Network:
    old = REGTEST.retarget
    rule = {name: getattr(old, name) for name in old.__struct_fields__}
    rule |= {"keeps_real_difficulty": True, "timewarp_seconds_max": 600}
    fields = {name: getattr(REGTEST, name) for name in REGTEST.__struct_fields__}
    return Network(**{**fields, "retarget": type(old)(**rule)})


def test_a_regtest_node_of_litecoin_is_followed_into_its_extension_blocks(
    litecoind: NodeStarter[Litecoind],
) -> None:
    """Scrypt, another money supply, and from height 432 on blocks that end with a HogEx."""
    node = litecoind.start()
    node.rpc("createwallet", "wallet")
    address = node.rpc("getnewaddress")
    node.rpc("generatetoaddress", 431, address)
    node.rpc("sendtoaddress", node.rpc("getnewaddress", "", "mweb"), 1)
    node.rpc("generatetoaddress", 3, address)
    net = network("litecoin-regtest")
    chain = follow(node, net)
    assert chain.best.height == 434
    assert chain.tip_work == int(node.rpc("getblockchaininfo")["chainwork"], 16)
    last = bytes.fromhex(node.rpc("getblock", node.rpc("getbestblockhash"), 0))
    assert prove_block(last, net).extension_bytes > 1
