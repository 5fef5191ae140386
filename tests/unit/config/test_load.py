"""The configuration: layers, bounds, contract names, and what each error says."""

import json
import re
from pathlib import Path

import pytest

from bitcoin_sprint.config import Config, load, load_with_sources, render
from bitcoin_sprint.config.keys import KEYS
from bitcoin_sprint.config.load import DEFAULT_FILE
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.tiers import TIERS


def _file(tmp_path, text):
    path = tmp_path / "sprint.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_stand_for_themselves():
    config = load()
    assert (config.instance, config.network, config.log.level) == ("main", "main", "info")
    assert config.ring.blocks_arena_bytes == 256 << 20
    assert config.ring.mode == 0o640


def test_default_toml_has_every_key_and_every_key_a_comment():
    text = DEFAULT_FILE.read_text(encoding="utf-8")
    sources = load_with_sources().sources
    assert set(sources) == set(KEYS)
    blocks = re.split(r"\n\s*\n", text)
    for block in blocks:
        lines = block.strip().splitlines()
        if any(not line.startswith(("#", "[")) for line in lines) and "relay.tiers." not in block:
            comment = next(line for line in lines if not line.startswith("["))
            assert comment.startswith("#"), f"no comment at {comment!r}"


def test_the_tiers_of_default_toml_are_the_tier_table():
    assert load().relay.tiers == dict(TIERS)


def test_flags_win_over_environment_over_dotenv_over_file_over_defaults(tmp_path):
    path = _file(tmp_path, 'instance = "file"\n[ring]\nmode = "0600"\n')
    dotenv = tmp_path / ".env"
    dotenv.write_text("SPRINT_INSTANCE=dotenv\n")
    environ = {"SPRINT_INSTANCE": "environ"}
    assert load(path).instance == "file"
    assert load(path, None, {}, dotenv).instance == "dotenv"
    assert load(path, None, environ, dotenv).instance == "environ"
    loaded = load_with_sources(path, {"instance": "flag"}, environ, dotenv)
    assert loaded.config.instance == "flag"
    assert loaded.config.ring.mode == 0o600
    assert loaded.sources["instance"] == "flag"
    assert loaded.sources["ring.mode"] == str(path)
    assert loaded.sources["network"] == "default.toml"


def test_a_flag_that_was_not_given_changes_nothing():
    assert load(None, {"instance": None}).instance == "main"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("instance", "My Engine", ["'My Engine'", "must match"]),
        ("network", 5, ["5", "must be text"]),
        ("network", "mainnet", ["'mainnet'", "flag", "main, testnet3, testnet4, signet"]),
        ("ring.blocks_arena", "1KiB", ["'1KiB'", "must be 8MiB to 64GiB"]),
        ("ring.blocks_arena", 1000, ["1000", "256MiB"]),
        ("ring.blocks_slots", 100, ["100", "a power of two, such as 128"]),
        ("ring.blocks_slots", "many", ["'many'", "whole number"]),
        ("ring.blocks_slots", True, ["True", "whole number"]),
        ("ring.mode", "999", ["'999'", "octal"]),
        ("ring.mode", 640, ["640", "octal"]),
        ("sim.interval", "61min", ["'61min'", "must be 0s to 1h"]),
        ("sim.interval", 500, ["500", '"500us"']),
        ("log.level", "loud", ["'loud'", "debug, info, warning, error"]),
        ("use_direct_p2p", "maybe", ["'maybe'", "true or false"]),
        ("tier", "gold", ["'gold'", "free, pro, business, turbo, enterprise", "flag"]),
        ("relay.tiers.turbo.stream_port", 0, ["0", "1 to 65535"]),
        ("relay.tiers.turbo.stream_port", 7400, ["7400", "relay.tiers.free.stream_port"]),
        ("ingest.p2p", ["nowhere"], ["'nowhere'", "host:port"]),
        ("ingest.p2p", ["host:70000"], ["'host:70000'", "65535"]),
        ("ingest.p2p", [1], ["[1]", "list of texts"]),
        ("ingest.zmq", [{"addresses": []}], ["addresses"]),
        ("ingest.zmq", [{"adresses": ["tcp://a:1"]}], ["adresses"]),
        ("ingest.zmq", "{", ["'{'"]),
        ("sim.transactions_min", 501, ["501", "sim.transactions_max = 500"]),
        ("control.restart_delay_min", "1min", ["'1min'", "control.restart_delay_max"]),
        ("enable_kernel_bypass", True, ["True", "no second egress backend"]),
        ("block_buffer_size", 4096, ["tier", "relay.tiers.<name>.buffer_frames"]),
        ("write_deadline", "5ms", ["tier", "relay.tiers.<name>.write_deadline"]),
    ],
)
def test_an_error_names_key_value_and_bound(key, value, words):
    with pytest.raises(ConfigError) as caught:
        load(None, {key: value})
    text = str(caught.value)
    assert caught.value.exit_code == 2
    for word in [key, *words]:
        assert word in text


_NODE = {"addresses": ["tcp://h:1"]}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ingest.p2p", ["999.1.1.1:8333"], "ingest.p2p = '999.1.1.1:8333'"),
        ("ingest.p2p", ["a b:8333"], "must be host:port, such as"),
        ("ingest.p2p", ["::1:8333"], "an IPv6 address in brackets"),
        ("ingest.p2p", ["[name]:8333"], "only an IPv6 address in brackets"),
        ("ingest.p2p", ["-x.lan:8333"], "must be host:port, such as"),
        ("ingest.p2p", [f"{'a' * 60}:8333"], "must have at most 55 characters"),
        ("ingest.p2p", [f"h{n}:1" for n in range(64)], "= 64 (flag): with all others 64 sources"),
        ("ingest.zmq", [{"addresses": ["tcp://h"]}], "ingest.zmq[0].addresses = 'tcp://h'"),
        ("ingest.zmq", [{"addresses": ["http://h:1"]}], "must be tcp://host:port"),
        ("ingest.zmq", [{"addresses": ["ipc://" + "x" * 200]}], "or ipc:///path"),
        ("ingest.zmq", [_NODE, _NODE], "ingest.zmq[1].name = 'tcp://h:1' (flag): ingest.zmq[0] is"),
        ("ingest.zmq", [_NODE, _NODE | {"name": "b"}], "ingest.zmq[0] has it already"),
        ("ingest.zmq", [_NODE | {"name": "x" * 60}], "at most 59 printable bytes"),
        ("ingest.zmq", [_NODE | {"rpc_url": "ftp://h:1"}], "rpc_url = 'ftp://h:1' (flag): must be"),
        ("ingest.zmq", [_NODE | {"rpc_url": "http://h:99999"}], "must be http://host:port"),
        ("ingest.zmq", [_NODE | {"rpc_url": "http:///x"}], "must be http://host:port"),
        ("ingest.zmq", [_NODE | {"rpc_user": "u"}], "is of no use without rpc_url"),
        ("ingest.zmq", [_NODE | {"rpc_ur": "u"}], "'rpc_ur': no such key; did you mean rpc_url?"),
        ("ingest.zmq", {"addresses": []}, "must be a list of tables; in a file, each begins with"),
        ("ingest.zmq", [_NODE | {"trusted": "yes"}], "table 0: Expected `bool`, got `str`"),
        ("relay.bind_host", "not a host", "must be an address such as 127.0.0.1 or ::1"),
        ("relay.bind_host", "*", "relay.bind_host = '*' (flag)"),
        ("relay.bind_host", "256.0.0.1", "must be an address"),
        ("data_dir", "a\x00b", "without control characters"),
        ("data_dir", "~nobody-is-called-so/x", "data_dir = '~nobody-is-called-so/x' (flag)"),
        ("relay.tiers.free.stream_port", "9" * 300, "'" + "9" * 159 + "… (flag): must be"),
        ("write_deadline", "5ms", "write_deadline = '5ms' (flag)"),
        ("ring", 5, "ring (flag): must be a table, [ring]"),
        ("a\nb", 5, r"'a\nb' (flag): no such key"),
    ],
)
def test_nonsense_is_refused_before_anything_starts_in_one_line(key, value, message):
    with pytest.raises(ConfigError) as caught:
        load(None, {key: value})
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8332", "https://[::1]:8332/wallet/x", "http://me:pw@node.lan:8332/"]
)
def test_addresses_that_are_right_are_taken(url):
    nodes = [{"addresses": ["tcp://[::1]:28332", "ipc:///run/node.sock"], "rpc_url": url}]
    peers = ["[2001:db8::1]:8333", "node.lan:8333", "seed-1.example.org:8333", "10.0.0.5:8333"]
    config = load(None, {"ingest.zmq": nodes, "ingest.p2p": peers, "relay.bind_host": "::"})
    assert config.ingest.p2p == tuple(peers)


def test_a_password_in_a_url_is_not_shown_in_an_error():
    with pytest.raises(ConfigError, match=r"ftp://\*\*\*@h") as caught:
        load(None, {"ingest.zmq": [_NODE | {"rpc_url": "ftp://me:hunter2@h"}]})
    assert "hunter2" not in str(caught.value)


def test_an_error_says_where_the_value_stood(tmp_path):
    path = _file(tmp_path, '[log]\nlevel = "loud"\n')
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load(path)
    with pytest.raises(ConfigError, match="environment, SPRINT_LOG_LEVEL"):
        load(None, None, {"SPRINT_LOG_LEVEL": "loud"})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('instanc = "x"', "did you mean instance?"),
        ("[ring]\nblock_slots = 64", "did you mean ring.blocks_slots?"),
        ("[rings]\nblocks_slots = 64", "did you mean ring.blocks_slots?"),
        ("outbound_count = 3", "did you mean ingest.outbound_count?"),
        ("[relay.tiers.gold]\nnice = 1", "no such key"),
        ("zzz = 1", "no such key"),
    ],
)
def test_an_unknown_key_is_refused_with_what_was_likely_meant(tmp_path, text, meant):
    with pytest.raises(ConfigError, match=re.escape(meant)):
        load(_file(tmp_path, text))


def test_an_unknown_variable_is_refused_but_not_those_of_tests_and_others():
    with pytest.raises(ConfigError, match="did you mean SPRINT_INSTANCE"):
        load(None, None, {"SPRINT_INSTANC": "x"})
    tests = {"SPRINT_TEST_DATA": "x", "SPRINT_REQUIRE_PEERS": "all", "SPRINT_STRESS_FRAMES": "1"}
    load(None, None, {**tests, "HOME": "/x"})


def test_a_file_that_is_missing_or_no_toml_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match=r"sprint\.toml.*line 2"):
        load(_file(tmp_path, "# one\ninstance = \n"))
    with pytest.raises(ConfigError, match="too deep within each other"):
        load(_file(tmp_path, "a = " + "[" * 5000))
    with pytest.raises(ConfigError, match=r"sprint\.toml: "):
        load(_file(tmp_path, "a = " + "9" * 5000))
    (tmp_path / "latin.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"latin\.toml: must be UTF-8"):
        load(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match=r"Is a directory"):
        load(tmp_path)


def test_contract_variables_are_obeyed_and_ours_win_over_them():
    environ = {
        "TIER": "Turbo",
        "USE_SHARED_MEMORY": "false",
        "USE_DIRECT_P2P": "0",
        "USE_MEMORY_CHANNEL": "no",
        "OPTIMIZE_SYSTEM": "off",
        "ENABLE_KERNEL_BYPASS": "false",
    }
    config = load(None, None, environ)
    assert config.tier == "turbo"
    assert [policy.name for policy in config.running_tiers] == ["turbo"]
    assert not any((config.use_shared_memory, config.use_direct_p2p))
    assert not any((config.use_memory_channel, config.optimize_system))
    assert config.ring.mode == 0o600, "rings private to the engine"
    assert load(None, None, environ | {"SPRINT_TIER": "free"}).tier == "free"


def test_sprint_config_names_the_file_where_no_flag_does(tmp_path):
    path = _file(tmp_path, 'instance = "named"\n')
    other = tmp_path / "other.toml"
    other.write_text('instance = "other"\n')
    assert load(None, None, {"SPRINT_CONFIG": str(path)}).instance == "named"
    assert load(other, None, {"SPRINT_CONFIG": str(path)}).instance == "other"
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"SPRINT_CONFIG={path}\n")
    assert load(None, None, {}, dotenv).instance == "named"


def test_a_contract_variable_left_empty_is_not_set():
    assert load(None, None, {"TIER": "", "USE_SHARED_MEMORY": " "}).use_shared_memory


def test_contract_defaults_are_those_of_turbo():
    config = load(None, {"tier": "turbo"})
    assert config.use_shared_memory
    assert config.use_direct_p2p
    assert config.use_memory_channel
    assert config.optimize_system
    assert not config.enable_kernel_bypass
    assert config.relay.tiers["turbo"].write_deadline_ns == 500_000
    assert config.relay.tiers["turbo"].buffer_frames == 2048


@pytest.mark.parametrize(
    ("given", "canonical"),
    [("Developer", "pro"), ("PROFESSIONAL", "business"), ("enterprise", "enterprise")],
)
def test_tier_aliases_are_known_in_any_case(given, canonical):
    assert load(None, None, {"TIER": given}).tier == canonical


def test_node_variables_add_to_the_lists_that_the_file_gives(tmp_path):
    path = _file(
        tmp_path,
        '[ingest]\np2p = ["a:8333"]\n[[ingest.zmq]]\nname = "n"\naddresses = ["tcp://b:1"]\n',
    )
    environ = {"BITCOIN_NODE": "host:8333", "ZMQ_NODE": "host:28332"}
    ingest = load(path, None, environ).ingest
    assert ingest.p2p == ("a:8333", "host:8333")
    assert [node.addresses for node in ingest.zmq] == [("tcp://b:1",), ("tcp://host:28332",)]
    assert ingest.zmq[1].trusted


@pytest.mark.parametrize("name", ["BITCOIN_NODE", "ZMQ_NODE"])
def test_a_node_variable_without_port_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} = 'host'.*must be host:port"):
        load(None, None, {name: "host"})


def test_the_named_tiers_own_keys_reach_its_policy():
    overrides = {"tier": "turbo", "write_deadline": "700us", "block_buffer_size": 8192}
    config = load(None, overrides)
    assert config.relay.tiers["turbo"].write_deadline_ns == 700_000
    assert config.relay.tiers["turbo"].buffer_frames == 8192
    assert config.relay.tiers["enterprise"] == TIERS["enterprise"]
    with pytest.raises(ConfigError, match=r"relay\.tiers\.turbo\.buffer_frames.*16 to"):
        load(None, {"tier": "turbo", "block_buffer_size": 3})


def test_variables_take_lists_with_commas_and_tables_as_json():
    nodes = json.dumps([{"name": "a", "addresses": ["tcp://h:1"], "trusted": False}])
    environ = {"SPRINT_INGEST_P2P": "a:1, b:2", "SPRINT_INGEST_ZMQ": nodes}
    ingest = load(None, None, environ).ingest
    assert ingest.p2p == ("a:1", "b:2")
    assert not ingest.zmq[0].trusted
    assert load(None, None, {"SPRINT_INGEST_P2P": ""}).ingest.p2p == ()


def test_dotenv_is_read_as_shells_write_it_and_other_programs_keys_are_left_alone(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "# x\n\nexport TIER='turbo' # fast\nSPRINT_INSTANCE=\"dev\"\nDATABASE_URL=x=y\n"
    )
    config = load(None, None, {}, dotenv)
    assert (config.tier, config.instance) == ("turbo", "dev")
    dotenv.write_text("A=1\nnot a line\n")
    with pytest.raises(ConfigError, match="line 2: must be KEY=value"):
        load(None, None, {}, dotenv)
    assert load(None, None, {}, tmp_path / "missing").instance == "main"
    dotenv.write_text("\ufeffTIER=free   # the cheapest\r\nSPRINT_NETWORK=\r\nX=a#b\n")
    with pytest.raises(ConfigError, match=r"network = ''.*SPRINT_NETWORK"):
        load(None, None, {}, dotenv)
    dotenv.write_text("TIER='free\n")
    with pytest.raises(ConfigError, match="line 1: must be KEY=value"):
        load(None, None, {}, dotenv)
    dotenv.unlink()
    dotenv.mkdir()
    assert load(None, None, {}, dotenv).instance == "main"


def test_data_goes_where_systemd_and_xdg_say():
    assert load(None, None, {"HOME": "/h"}).data_dir == "/h/.local/share/bitcoin-sprint"
    xdg = {"HOME": "/h", "XDG_DATA_HOME": "/x"}
    assert load(None, None, xdg).data_dir == "/x/bitcoin-sprint"
    systemd = xdg | {"STATE_DIRECTORY": "/var/lib/bitcoin-sprint"}
    assert load(None, None, systemd).data_dir == "/var/lib/bitcoin-sprint"
    other = load(None, {"instance": "b"}, systemd)
    assert other.data_dir == "/var/lib/bitcoin-sprint/b"
    assert load(None, {"data_dir": "/d"}, systemd).data_dir == "/d"


def test_sim_needs_regtest():
    with pytest.raises(ConfigError, match=r"sim\.enabled.*regtest"):
        load(None, {"sim.enabled": True})
    config = load(None, {"sim.enabled": True, "network": "regtest", "sim.port": 1234})
    assert config.sim.enabled
    assert config.ingest.p2p == ("127.0.0.1:1234",)
    assert not config.ingest.dns_seeds


def test_a_configuration_survives_the_way_to_another_process():
    config = load(None, {"tier": "turbo"}, {"ZMQ_NODE": "host:28332"})
    assert Config.decode(config.encode()) == config


def test_rendered_values_read_back_the_same_and_secrets_are_hidden():
    url = "http://me:sesame@h:8332"
    nodes = [{"addresses": ["tcp://h:1"], "rpc_url": url, "rpc_password": "hunter2"}]
    config = load(None, {"ingest.zmq": nodes, "ring.mode": "0600"})
    rendered = render(config)
    assert "hunter2" not in repr(rendered)
    assert rendered["ingest.zmq"][0]["rpc_url"] == "http://***@h:8332"
    del rendered["ingest.zmq"]
    assert load(None, {**rendered, "ingest.zmq": nodes}) == config


def test_a_secret_is_not_shown_in_an_error():
    with pytest.raises(ConfigError) as caught:
        load(None, {"ingest.zmq": [{"addresses": 5, "rpc_password": "hunter2"}]})
    assert "hunter2" not in str(caught.value)


def test_a_dotenv_that_is_no_text_is_refused_by_name(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"TIER=\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"\.env: must be UTF-8"):
        load(None, None, {}, dotenv)


def test_a_dotenv_that_cannot_be_read_is_refused_by_name(tmp_path, monkeypatch):
    dotenv = tmp_path / ".env"
    dotenv.touch()
    read_text = Path.read_text

    def refusing(path, **options):
        if path == dotenv:
            raise PermissionError(13, "Permission denied")
        return read_text(path, **options)

    monkeypatch.setattr(Path, "read_text", refusing)
    with pytest.raises(ConfigError, match=r"\.env: cannot be read: Permission denied"):
        load(None, None, {}, dotenv)


@pytest.mark.parametrize("password", ["sesame", "ses/ame", "ses@ame", "s/e@s ame", "s'esame\""])
def test_no_error_shows_a_password_whatever_is_in_it(password):
    nodes = [{"addresses": ["tcp://h:1"], "rpc_url": f"http://me:{password}@h:0"}]
    with pytest.raises(ConfigError, match="rpc_url") as refused:
        load(None, {"ingest.zmq": nodes})
    assert "ame" not in str(refused.value)
    assert "@h:0" in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        load(None, {"ingest.zmq": [*nodes, {"addresses": 3}]})
    assert "ame" not in str(refused.value).replace("name", "")
