"""Values that are right alone and wrong together, and texts that no type can judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from bitcoin_sprint.config import addresses
from bitcoin_sprint.config.keys import KEYS, shown
from bitcoin_sprint.config.schema import Config, NodeConfig
from bitcoin_sprint.errors import ConfigError

SOURCES_MAX: Final = 63
"""Nodes, peers and files together: entries of a ring's source table beside the engine's own."""
SOURCE_NAME_BYTES_MAX: Final = 59
"""What a ring's source table holds of a name; also keeps ``source.<name>.<counter>`` in bounds."""
_P2P_PREFIX: Final = "p2p "


class Agreement:
    """Checks one configuration; ``sources`` says where each value stood."""

    def __init__(self, config: Config, sources: Mapping[str, str]) -> None:
        self._config = config
        self._sources = sources

    def check(self) -> None:
        """Raise ConfigError for the first thing that is wrong."""
        self._check_engine()
        self._check_control()
        self._check_sim()
        self._check_ports()
        self._check_peers()
        self._check_nodes()
        self._check_source_count()

    def _refuse(self, path: str, value: object, why: str) -> NoReturn:
        key = path.partition("[")[0]
        where = self._sources.get(key, "default.toml")
        raise ConfigError(f"{path} = {shown(value)} ({where}): {why}")

    def _check_text(self, path: str, value: str, check: Callable[[str], None]) -> None:
        try:
            check(value)
        except ValueError as error:
            self._refuse(path, value, str(error))

    def _check_engine(self) -> None:
        config = self._config
        if config.enable_kernel_bypass:
            self._refuse("enable_kernel_bypass", True, "there is no second egress backend yet")
        ring = config.ring
        for name, slots in (("blocks_slots", ring.blocks_slots), ("tx_slots", ring.tx_slots)):
            if slots & (slots - 1):
                power = 1 << slots.bit_length()
                self._refuse(f"ring.{name}", slots, f"must be a power of two, such as {power}")
        self._check_text("relay.bind_host", config.relay.bind_host, addresses.check_host)

    def _check_control(self) -> None:
        control = self._config.control
        if control.restart_delay_min_ns > control.restart_delay_max_ns:
            key = KEYS["control.restart_delay_min"]
            self._refuse(
                key.path,
                key.render(control.restart_delay_min_ns),
                "must not be above control.restart_delay_max = "
                f"{key.render(control.restart_delay_max_ns)}",
            )

    def _check_sim(self) -> None:
        sim, network = self._config.sim, self._config.network
        if sim.enabled and network != "regtest":
            self._refuse("sim.enabled", True, f'needs network = "regtest", not "{network}"')
        if sim.transactions_min > sim.transactions_max:
            self._refuse(
                "sim.transactions_min",
                sim.transactions_min,
                f"must not be above sim.transactions_max = {sim.transactions_max}",
            )

    def _check_ports(self) -> None:
        config = self._config
        taken: dict[int, str] = {config.sim.port: "sim.port"} if config.sim.enabled else {}
        for policy in config.running_tiers:
            for field in ("stream_port", "zmq_port"):
                path, port = f"relay.tiers.{policy.name}.{field}", getattr(policy, field)
                if port in taken:
                    self._refuse(path, port, f"{taken[port]} has that port already")
                taken[port] = path

    def _check_peers(self) -> None:
        for address in self._config.ingest.p2p:
            self._check_text("ingest.p2p", address, addresses.check_host_port)
            if len(_P2P_PREFIX + address) > SOURCE_NAME_BYTES_MAX:
                most = SOURCE_NAME_BYTES_MAX - len(_P2P_PREFIX)
                self._refuse("ingest.p2p", address, f"must have at most {most} characters")

    def _check_nodes(self) -> None:
        names: dict[str, str] = {}
        lines: dict[str, str] = {}
        for index, node in enumerate(self._config.ingest.zmq):
            path = f"ingest.zmq[{index}]"
            self._check_node(path, node)
            name = node.name or node.addresses[0]
            if name in names:
                self._refuse(f"{path}.name", name, f"{names[name]} is called so already")
            names[name] = path
            for address in node.addresses:
                if address in lines:
                    self._refuse(f"{path}.addresses", address, f"{lines[address]} has it already")
                lines[address] = path

    def _check_node(self, path: str, node: NodeConfig) -> None:
        for address in node.addresses:
            self._check_text(f"{path}.addresses", address, addresses.check_zmq_address)
        name, where = node.name or node.addresses[0], "name" if node.name else "addresses"
        if len(name.encode()) > SOURCE_NAME_BYTES_MAX or not name.isprintable():
            why = f"must have at most {SOURCE_NAME_BYTES_MAX} printable bytes"
            self._refuse(f"{path}.{where}", name, why if node.name else f"{why}; give it a name")
        if node.rpc_url:
            self._check_text(f"{path}.rpc_url", node.rpc_url, addresses.check_rpc_url)
            if node.rpc_cookie and (node.rpc_user or node.rpc_password):
                self._refuse(
                    f"{path}.rpc_cookie",
                    node.rpc_cookie,
                    "must not stand beside rpc_user and rpc_password: only one of them counts",
                )
        for field in ("rpc_cookie", "rpc_user", "rpc_password"):
            if getattr(node, field) and not node.rpc_url:
                self._refuse(f"{path}.{field}", "(hidden)", "is of no use without rpc_url")

    def _check_source_count(self) -> None:
        ingest = self._config.ingest
        peers = max(len(ingest.p2p), ingest.outbound_count if ingest.dns_seeds else 0)
        count = len(ingest.zmq) + peers + bool(ingest.replay)
        if count > SOURCES_MAX:
            path = "ingest.p2p" if len(ingest.p2p) == peers else "ingest.outbound_count"
            self._refuse(path, peers, f"with all others {count} sources: at most {SOURCES_MAX}")
