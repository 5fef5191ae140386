"""Hypothesis strategies for the messages of the P2P protocol."""

from __future__ import annotations

from hypothesis import strategies as st

from bitcoin_sprint.ingest import p2p_messages as messages
from bitcoin_sprint.ingest.p2p_fields import NetworkAddress, TimedAddress, TimedAddressV2
from bitcoin_sprint.ingest.p2p_messages import InvItem

hashes = st.binary(min_size=32, max_size=32)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
i32 = st.integers(-(2**31), 2**31 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
addresses = st.builds(NetworkAddress, u64, st.binary(min_size=16, max_size=16), u16)
agents = st.text(max_size=60)
inventory = st.lists(st.builds(InvItem, u32, hashes), max_size=20)
locators = st.lists(hashes, max_size=messages.LOCATOR_COUNT_MAX)
v2_addresses = st.builds(
    TimedAddressV2, u32, u64, st.integers(0, 255), st.binary(max_size=512), u16
)

any_message = st.one_of(
    st.builds(
        messages.Version, i32, u64, i64, addresses, addresses, u64, agents, i32, st.booleans()
    ),
    st.builds(messages.Verack),
    st.builds(messages.SendHeaders),
    st.builds(messages.WtxidRelay),
    st.builds(messages.SendAddrV2),
    st.builds(messages.GetAddr),
    st.builds(messages.Mempool),
    st.builds(messages.Ping, u64),
    st.builds(messages.Pong, u64),
    st.builds(messages.GetHeaders, locators, hashes, u32),
    st.builds(messages.GetBlocks, locators, hashes, u32),
    st.builds(messages.Headers, st.lists(st.binary(min_size=80, max_size=80), max_size=20)),
    st.builds(messages.Inv, inventory),
    st.builds(messages.GetData, inventory),
    st.builds(messages.NotFound, inventory),
    st.builds(messages.Block, st.binary(max_size=300)),
    st.builds(messages.Transaction, st.binary(max_size=300)),
    st.builds(messages.Addr, st.lists(st.builds(TimedAddress, u32, addresses), max_size=20)),
    st.builds(messages.AddrV2, st.lists(v2_addresses, max_size=20)),
    st.builds(messages.FeeFilter, u64),
    st.builds(messages.SendCmpct, st.booleans(), u64),
    st.builds(
        messages.Reject,
        st.text("abcdefgh", max_size=12),
        st.integers(0, 255),
        st.text("abc ", max_size=111),
        hashes,
    ),
)
