"""The peers that other tests rely on start, mine, answer and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import zmq
from peers import Bcoin, Bitcoind, Litecoind, RpcError, Spender, places
from peers.fixtures import NodeStarter


def test_bitcoind_mines_and_publishes_the_block_on_zmq(bitcoind: NodeStarter[Bitcoind]) -> None:
    node = bitcoind.start()
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.subscribe(b"hashblock")
        subscriber.setsockopt(zmq.RCVTIMEO, 20_000)
        monitor = subscriber.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        subscriber.connect(node.zmq["hashblock"])
        assert monitor.poll(20_000)
        subscriber.disable_monitor()
        # The subscription itself has no acknowledgement: mine until one is heard.
        subscriber.setsockopt(zmq.RCVTIMEO, 200)
        for _ in range(100):
            hashes = node.mine()
            try:
                topic, body, _number = subscriber.recv_multipart()
            except zmq.Again:
                continue
            break
    assert (topic, body.hex()) == (b"hashblock", hashes[0])


def test_two_bitcoinds_run_side_by_side_and_sync_by_p2p(bitcoind: NodeStarter[Bitcoind]) -> None:
    first = bitcoind.start()
    second = bitcoind.start([f"-connect={first.p2p_address}"])
    tip = first.mine(3)[-1]
    assert second.rpc("waitforblock", tip, 30_000)["hash"] == tip


def test_a_killed_bitcoind_restarts_on_its_data(bitcoind: NodeStarter[Bitcoind]) -> None:
    node = bitcoind.start(zmq_topics=())
    node.mine(2)
    node.shut_down()
    node.restart()
    assert node.rpc("getblockcount") == 2


def test_a_stopped_node_leaves_nothing_behind(bitcoind: NodeStarter[Bitcoind]) -> None:
    node = bitcoind.start(zmq_topics=())
    node.stop()
    assert not node.is_running()
    assert not node.directory.exists()


def test_a_nodes_refusal_is_told_from_its_silence(bitcoind: NodeStarter[Bitcoind]) -> None:
    node = bitcoind.start(zmq_topics=())
    with pytest.raises(RpcError, match="Block not found"):
        node.rpc("getblock", "00" * 32)
    credentials = node.credentials
    node.kill()
    node.cookie_file.write_text(credentials)
    with pytest.raises(OSError, match="refused"):
        node.rpc("getblockcount")


def test_transactions_are_made_without_a_wallet(bitcoind: NodeStarter[Bitcoind]) -> None:
    node = bitcoind.start(zmq_topics=())
    spender = Spender(node)
    spender.mine_coins(2)
    sent = {spender.send(outputs=20), spender.send(data=b"x" * 75), spender.send()}
    assert set(node.rpc("getrawmempool")) == sent
    (block,) = node.mine()
    assert set(node.rpc("getblock", block)["tx"][1:]) == sent


def test_litecoind_mines(litecoind: NodeStarter[Litecoind]) -> None:
    node = litecoind.start()
    hashes = node.mine(2)
    assert node.rpc("getbestblockhash") == hashes[-1]


def test_bcoin_mines(bcoin: NodeStarter[Bcoin]) -> None:
    node = bcoin.start()
    hashes = node.mine(2)
    assert node.rpc("getbestblockhash") == hashes[-1]


def test_the_oracles_parse_the_genesis_block(btclib: ModuleType, pbk: ModuleType) -> None:
    assert btclib is not None
    assert pbk is not None


def test_bitcoin_cores_own_test_framework_is_there(peer: Callable[[str], Path]) -> None:
    framework = peer("test-framework")
    assert (framework / "test_framework" / "p2p.py").is_file()
    assert (framework / "feature_signet.py").is_file()


def test_an_unknown_name_in_the_requirement_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPRINT_REQUIRE_PEERS", "bitcoind,dogecoind")
    with pytest.raises(ValueError, match="dogecoind"):
        places.is_required("bitcoind")


def test_a_named_bitcoind_that_does_not_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPRINT_TEST_BITCOIND", "/nonexistent/bitcoind")
    with pytest.raises(places.Missing, match="/nonexistent/bitcoind"):
        places.find("bitcoind")


def test_a_missing_peer_skips_by_name_or_fails_where_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = tmp_path / "test_it.py"
    test.write_text("pytest_plugins = ['peers.fixtures']\ndef test_bcoin(bcoin): bcoin.start()\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    for required, code, word in [("", 0, "skipped"), ("bcoin", 1, "error")]:
        monkeypatch.setenv("SPRINT_REQUIRE_PEERS", required)
        done = subprocess.run([*command, str(test)], capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stdout
        assert f"1 {word}" in done.stdout
        assert "peers missing, their tests did not run: bcoin" in done.stdout
