"""What differs between block chains and their networks, as data.

A ``Network`` says what a chain's rules are; it checks nothing. The checks stand in ``validate`` and
read everything they need from here, so that another Bitcoin-like chain is another table.
"""

from __future__ import annotations

import enum
import hashlib

import msgspec

from bitcoin_sprint.frames import Chain

NEVER = 0x7FFFFFFF
"""A height for rules that a network never activates."""


class ProofOfWork(enum.Enum):
    """Which hash of the header must meet its target."""

    SHA256D = "sha256d"
    SCRYPT = "scrypt"


class Retarget(msgspec.Struct, frozen=True, kw_only=True):
    """How a network's required difficulty follows its block times."""

    timespan_seconds: int = 14 * 24 * 60 * 60
    """What one period of blocks should take."""
    spacing_seconds: int = 10 * 60
    """What one block should take."""
    retargets: bool = True
    """False (regtest): the difficulty never moves."""
    allows_minimum_difficulty: bool = False
    """Test networks: a block later than twice the spacing may have the least difficulty."""
    keeps_real_difficulty: bool = False
    """BIP94 (testnet4): a period starts from its predecessor's first block, not its last."""
    timewarp_seconds_max: int | None = None
    """BIP94: how far before its parent a period's first block may be dated."""
    spans_whole_period: bool = False
    """Litecoin: a period is measured from its predecessor's last block (but for the first one),
    where Bitcoin leaves out one interval."""

    @property
    def interval(self) -> int:
        """Blocks in one period."""
        return self.timespan_seconds // self.spacing_seconds


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A block that a header chain may start from instead of the genesis block.

    ``work`` is the chain's total work up to and with it. ``recent_times`` are the times of up to
    ten blocks before it, oldest first, for the median time past; ``period_start_time`` and
    ``period_start_bits`` are those of the first block of its difficulty period (Litecoin: the
    block before that one), ``real_bits`` the last target that was no minimum-difficulty exception.
    """

    height: int
    header: bytes
    work: int
    recent_times: tuple[int, ...]
    period_start_time: int
    period_start_bits: int
    real_bits: int


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """One network of one chain. Immutable; safe to share between threads."""

    name: str
    chain: Chain
    magic: bytes
    """The four bytes before every peer-to-peer message."""
    default_port: int
    dns_seeds: tuple[str, ...] = ()
    genesis: bytes
    """The genesis block's header, 80 bytes."""
    genesis_hash: bytes
    """Internal byte order."""
    pow_limit: int
    """The easiest target that the network allows."""
    proof_of_work: ProofOfWork = ProofOfWork.SHA256D
    retarget: Retarget
    bip34_height: int
    """From here on a coinbase opens with its block's height, and versions below 2 are refused."""
    bip66_height: int
    """From here on versions below 3 are refused."""
    bip65_height: int
    """From here on versions below 4 are refused."""
    segwit_height: int
    """From here on a block commits to its witnesses (BIP141)."""
    block_weight_max: int = 4_000_000
    block_bytes_max: int = 4_000_000
    """Longest serialized block, also a bound on what is read from anybody."""
    money_max: int = 21_000_000 * 100_000_000
    """No output and no sum of outputs may be above it, in the smallest unit."""
    has_extension_block: bool = False
    """Litecoin: a block whose last transaction is a HogEx carries an extension block (MWEB)."""
    signet_challenge: bytes | None = None
    """BIP325: the script that every block must carry a solution for."""
    checkpoint: Checkpoint | None = None
    protocol_version: int = 70016
    protocol_version_min: int = 70002
    """Oldest peer-to-peer version worth talking to."""
    services_required: int = 0b1001
    """Service bits a peer must offer for full blocks: NODE_NETWORK and NODE_WITNESS."""

    def block_hash(self, header: bytes | memoryview) -> bytes:
        """The hash that names a block: double SHA-256 of its 80-byte header, internal order."""
        return hashlib.sha256(hashlib.sha256(header[:80]).digest()).digest()

    def pow_hash(self, header: bytes | memoryview) -> bytes:
        """The hash whose value as a little-endian number must not exceed the header's target."""
        if self.proof_of_work is ProofOfWork.SCRYPT:
            data = bytes(header[:80])
            return hashlib.scrypt(data, salt=data, n=1024, r=1, p=1, dklen=32)
        return self.block_hash(header)
