"""The simulated chain: which coins can be spent, which transactions wait, which blocks stand.

Design. ``SimChain`` is miner, mempool and wallet in one, and knows nothing of clocks or networks:
its caller says when to make transactions, mine, reorganise. Given the same seed, the same calls and
the same times it makes the same bytes.

Invariants
- A coin is in exactly one place: spendable (confirmed and unspent), young (an output of a waiting
  transaction, unspent), immature (of a recent coinbase), or gone (a transaction that waits or
  stands spends it).
- The mempool lists parents before children. A reorg puts the transactions of the blocks that it
  removes back in front; they are mined again, and nothing once announced becomes invalid.
- A coinbase is spent only after consensus' 100 blocks and the deepest reorg, so that no reorg makes
  a spend premature.

Bodies are kept within a budget of bytes, newest first, headers all. Not safe across threads.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bitcoin_sprint.chains import Network
from bitcoin_sprint.ingest.simulator.blocks import (
    COINBASE_WEIGHT_MAX,
    WEIGHT_MAX,
    SimBlock,
    Template,
    mine,
    overhead,
)
from bitcoin_sprint.ingest.simulator.transactions import (
    FILLER_WEIGHT_MAX,
    FILLER_WEIGHT_MIN,
    Coin,
    CoinKind,
    SimTransaction,
    TransactionMaker,
    spend_cost_max,
)

MATURITY: Final = 100
REORG_DEPTH_LIMIT: Final = 100
FAN_OUT: Final = 1_000
"""Outputs of the transaction that spreads one early coinbase over many coins."""

_FAN_OUT_VALUE_MIN = 1_000_000_000
_YOUNG_SHARE = 0.05
"""Part of the transactions that spend an output of one still waiting."""
_GENERATIONS_MAX = 5
"""Longest line of waiting transactions that spend each other; Core's policy allows 25."""
_DATA_WEIGHT = 40_000
_SMALL_BELOW_WEIGHT = 60_000
"""Room in a block being filled below which only small transactions are made; the largest of the
others weighs less."""
_COUNT_FIELD_SLACK = 16
"""Weight units by which the field of a block's transaction count may grow while it is filled."""


class Reorg(msgspec.Struct, frozen=True):
    """A reorganisation: blocks that left the best chain, tip first, and those that came instead."""

    disconnected: Sequence[SimBlock]
    connected: Sequence[SimBlock]


class SimChain:
    """A best chain that grows, and reorganises on request."""

    def __init__(
        self,
        network: Network,
        *,
        seed: int = 0,
        coins_target: int = 15_000,
        reorg_depth_max: int = 6,
        bodies_max_bytes: int = 128 << 20,
        legacy_share: float = 0.12,
    ) -> None:
        """``coins_target`` is about how many coins stay spendable; ``legacy_share`` as in
        ``TransactionMaker``. Raises ValueError for a network other than regtest."""
        if network.name != "regtest":
            raise ValueError(f"the simulator mines on regtest only, not on {network.name}")
        if not 1 <= reorg_depth_max <= REORG_DEPTH_LIMIT:
            raise ValueError(f"reorg_depth_max is 1 to {REORG_DEPTH_LIMIT}, not {reorg_depth_max}")
        self.network = network
        self.coins_target = coins_target
        self.reorg_depth_max = reorg_depth_max
        self._rng = random.Random(seed)
        self._maker = TransactionMaker(self._rng, legacy_share=legacy_share)
        self._seed = seed
        self._mined_count = 0
        self._headers = [network.genesis]
        self._hashes = [network.genesis_hash]
        self._heights = {network.genesis_hash: 0}
        self._recent: deque[SimBlock] = deque(maxlen=reorg_depth_max)
        self._bodies: dict[bytes, bytes] = {}
        self._bodies_bytes = 0
        self._bodies_max_bytes = bodies_max_bytes
        self._spendable: list[Coin] = []
        self._young: dict[Coin, int] = {}
        self._young_order: list[Coin] = []
        self._immature: deque[tuple[int, Coin]] = deque()
        self._mempool: list[SimTransaction] = []

    @property
    def height(self) -> int:
        return len(self._headers) - 1

    @property
    def tip(self) -> bytes:
        """Hash of the best block."""
        return self._hashes[-1]

    @property
    def mempool(self) -> Sequence[SimTransaction]:
        """Transactions that wait, parents before children."""
        return self._mempool

    @property
    def spendable_count(self) -> int:
        return len(self._spendable)

    def body(self, hash: bytes) -> bytes | None:
        """A block's raw bytes; None where it is unknown or was dropped to stay in the budget."""
        return self._bodies.get(hash)

    def header(self, height: int) -> bytes:
        """The best chain's header at a height from 0 to ``height``."""
        return self._headers[height]

    def height_of(self, hash: bytes) -> int | None:
        """The height of a block of the best chain."""
        return self._heights.get(hash)

    def headers_after(self, locator: Sequence[bytes], stop: bytes, limit: int) -> list[bytes]:
        """Headers that follow the first known of ``locator`` on the best chain, through ``stop``
        (all zero, or unknown: to the tip), at most ``limit``."""
        start = next((self._heights[each] for each in locator if each in self._heights), 0) + 1
        end = self._heights.get(stop, self.height) + 1
        return self._headers[start : min(end, start + limit)]

    def prepare(self, time: int) -> list[SimBlock]:
        """Mine until there are ``coins_target`` coins to spend; the blocks that this took, the
        last of them at ``time`` seconds."""
        spreads = -(-self.coins_target // FAN_OUT)
        total = MATURITY + self.reorg_depth_max + spreads + 1
        blocks = []
        for index in range(total):
            if index:
                self._fan_out()
            blocks.append(self.mine(time - total + 1 + index))
        return blocks

    def make_transactions(self, count: int) -> list[SimTransaction]:
        """Up to ``count`` new transactions in the mempool, fewer where coins run out."""
        made: list[SimTransaction] = []
        while len(made) < count:
            transaction = self._make_one()
            if transaction is None:
                break
            self._mempool.append(transaction)
            made.append(transaction)
        return made

    def mine(self, time: int, *, count: int | None = None, weight: int | None = None) -> SimBlock:
        """Mine on the tip at ``time`` seconds, or as soon after it as consensus asks.

        ``count`` bounds how many of the waiting transactions go in (else all that fit). With
        ``weight``, up to 4,000,000 units, the block is filled to exactly that instead.
        """
        template = self._template(time)
        lock = self._maker.lock()
        if weight is None:
            chosen, _ = self._choose(count, WEIGHT_MAX - COINBASE_WEIGHT_MAX)
            del self._mempool[: len(chosen)]
        elif not COINBASE_WEIGHT_MAX <= weight <= WEIGHT_MAX:
            raise ValueError(
                f"a block is filled to a weight of {COINBASE_WEIGHT_MAX} to {WEIGHT_MAX}, "
                f"not {weight}"
            )
        else:
            chosen = self._fill(weight - overhead(template, lock, 1))
            filler = self._filler(weight, template, lock, chosen)
            chosen.append(filler)
        block = mine(self.network, template, chosen, lock)
        self._connect(block)
        return block

    def reorganise(self, depth: int, time: int, *, count: int | None = None) -> Reorg:
        """Replace the ``depth`` newest blocks by one more than that.

        What they held is mined again in the new blocks, divided otherwise. ``time`` and ``count``
        (of each block) are as for ``mine``. Raises ValueError where the chain cannot go that deep.
        """
        deepest = len(self._recent)
        if not 1 <= depth <= deepest:
            raise ValueError(f"a reorg here is 1 to {deepest} blocks deep, not {depth}")
        disconnected = [self._disconnect() for _ in range(depth)]
        share = len(self._mempool) // (depth + 1) + 1
        connected = []
        for _ in range(depth + 1):
            most = int(share * (0.5 + self._rng.random())) if count is None else count
            connected.append(self.mine(time, count=most))
        return Reorg(disconnected, connected)

    def _template(self, time: int) -> Template:
        times = sorted(int.from_bytes(each[68:72], "little") for each in self._headers[-11:])
        self._mined_count += 1
        words = b"sprint sim %d/%d" % (self._seed, self._mined_count)
        return Template(self.tip, self.height + 1, max(time, times[len(times) // 2] + 1), words)

    def _choose(self, count: int | None, room: int) -> tuple[list[SimTransaction], int]:
        """Waiting transactions from the front that fit in ``room``, and what room is left."""
        chosen: list[SimTransaction] = []
        for transaction in self._mempool if count is None else self._mempool[:count]:
            if transaction.weight > room:
                break
            room -= transaction.weight
            chosen.append(transaction)
        return chosen, room

    def _fill(self, room: int) -> list[SimTransaction]:
        """Take waiting transactions, then new ones, until a filler can take the rest of ``room``.

        New ones spend confirmed coins alone, as what still waits comes after them. Where coins run
        short, transactions that carry much data take their place.
        """
        kept_back = FILLER_WEIGHT_MIN + _COUNT_FIELD_SLACK
        chosen, room = self._choose(None, room - kept_back)
        room += kept_back
        del self._mempool[: len(chosen)]
        while room > FILLER_WEIGHT_MAX - _COUNT_FIELD_SLACK:
            scarce = len(self._spendable) < self.coins_target // 4
            if scarce and room > _DATA_WEIGHT + FILLER_WEIGHT_MAX:
                transaction = self._make_data()
            else:
                transaction = self._make_one(confirmed=True, small=room < _SMALL_BELOW_WEIGHT)
            if transaction is None:
                raise ValueError("too few coins are left to fill the block")
            room -= transaction.weight
            chosen.append(transaction)
        return chosen

    def _make_data(self) -> SimTransaction | None:
        """A new transaction that carries about ``_DATA_WEIGHT`` weight units of data."""
        coin = self._take_rich()
        if coin is None:
            return None
        transaction = self._maker.make([coin], 1, data=self._rng.randbytes(_DATA_WEIGHT // 4))
        self._note_young(transaction, 1)
        return transaction

    def _filler(
        self,
        weight: int,
        template: Template,
        lock: tuple[CoinKind, bytes, bytes],
        chosen: Sequence[SimTransaction],
    ) -> SimTransaction:
        """The transaction that brings the block with ``chosen`` to exactly ``weight``."""
        taken = overhead(template, lock, len(chosen) + 1) + sum(each.weight for each in chosen)
        coin = self._take_segwit()
        if coin is None:
            raise ValueError("too few coins are left to fill the block")
        filler = self._maker.make_filler(coin, weight - taken)
        self._note_young(filler, 1)
        return filler

    def _make_one(self, *, confirmed: bool = False, small: bool = False) -> SimTransaction | None:
        """A new transaction, None where no coins are left. ``small``: one segwit input, two
        outputs."""
        inputs, outputs = (1, 2) if small else self._maker.shape()
        supply = len(self._spendable)
        if supply > self.coins_target * 3 // 2:
            inputs, outputs = max(inputs, outputs), min(inputs, outputs)
        elif supply < self.coins_target // 2:
            inputs, outputs = min(inputs, outputs), max(inputs, outputs)
        coins: list[Coin] = []
        generation = 1
        if not confirmed and self._rng.random() < _YOUNG_SHARE:
            generation += self._take_young(coins)
        total = sum(coin.value for coin in coins)
        while len(coins) < inputs or total < spend_cost_max(len(coins), outputs):
            coin = self._take_segwit() if small else self._take()
            if coin is None:
                break
            coins.append(coin)
            total += coin.value
        if total < spend_cost_max(len(coins), outputs) or not coins:
            if generation > 1:
                self._young[coins[0]] = generation - 1
                del coins[0]
            self._spendable += coins
            return None
        transaction = self._maker.make(coins, outputs, data=b"" if small else None)
        self._note_young(transaction, generation)
        return transaction

    def _take(self) -> Coin | None:
        """Any spendable coin."""
        coins = self._spendable
        if not coins:
            return None
        index = int(self._rng.random() * len(coins))
        coins[index], coins[-1] = coins[-1], coins[index]
        return coins.pop()

    def _take_segwit(self) -> Coin | None:
        """A spendable P2WSH coin of some value."""
        least = spend_cost_max(1, 2)
        return self._find(lambda coin: coin.kind is CoinKind.P2WSH and coin.value >= least)

    def _take_rich(self) -> Coin | None:
        """A spendable coin that pays for much data."""
        return self._find(lambda coin: coin.value >= _DATA_WEIGHT + spend_cost_max(1, 1))

    def _find(self, fits: Callable[[Coin], bool]) -> Coin | None:
        """A random spendable coin that fits, within some tries."""
        passed: list[Coin] = []
        found = None
        while len(passed) < 200 and (coin := self._take()) is not None:
            if fits(coin):
                found = coin
                break
            passed.append(coin)
        self._spendable += passed
        return found

    def _take_young(self, coins: list[Coin]) -> int:
        """Add a waiting transaction's output to ``coins``, if one is found; its generation."""
        order = self._young_order
        for _ in range(8):
            if not order:
                break
            index = int(self._rng.random() * len(order))
            coin = order[index]
            order[index] = order[-1]
            order.pop()
            generation = self._young.get(coin)
            if generation is not None and generation < _GENERATIONS_MAX:
                del self._young[coin]
                coins.append(coin)
                return generation
        return 0

    def _note_young(self, transaction: SimTransaction, generation: int) -> None:
        for coin in transaction.created:
            self._young[coin] = generation
            self._young_order.append(coin)

    def _fan_out(self) -> None:
        """Spread each early coinbase that can be spent over many coins."""
        kept: list[Coin] = []
        for coin in self._spendable:
            if coin.value < _FAN_OUT_VALUE_MIN:
                kept.append(coin)
                continue
            transaction = self._maker.make([coin], FAN_OUT, data=b"")
            self._note_young(transaction, 1)
            self._mempool.append(transaction)
        self._spendable = kept

    def _connect(self, block: SimBlock) -> None:
        self._headers.append(block.header)
        self._hashes.append(block.hash)
        self._heights[block.hash] = block.height
        self._recent.append(block)
        self._keep_body(block)
        for transaction in block.transactions:
            for coin in transaction.created:
                if self._young.pop(coin, None) is not None:
                    self._spendable.append(coin)
        self._young_order = list(self._young)
        self._immature += ((block.height, coin) for coin in block.coinbase.created)
        mature = block.height + 1 - MATURITY - self.reorg_depth_max
        while self._immature and self._immature[0][0] <= mature:
            self._spendable.append(self._immature.popleft()[1])

    def _disconnect(self) -> SimBlock:
        block = self._recent.pop()
        self._headers.pop()
        del self._heights[self._hashes.pop()]
        created = {coin for each in block.transactions for coin in each.created}
        kept: list[Coin] = []
        for coin in self._spendable:
            if coin in created:
                self._young[coin] = 1
                self._young_order.append(coin)
            else:
                kept.append(coin)
        self._spendable = kept
        if block.coinbase.created:
            self._immature.pop()
        self._mempool[:0] = block.transactions
        return block

    def _keep_body(self, block: SimBlock) -> None:
        self._bodies[block.hash] = block.raw
        self._bodies_bytes += len(block.raw)
        while self._bodies_bytes > self._bodies_max_bytes and len(self._bodies) > 1:
            oldest = next(iter(self._bodies))
            self._bodies_bytes -= len(self._bodies.pop(oldest))
