"""``sprint config``: says what sprintd would say, and shows what it would run with."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitcoin_sprint.config.keys import KEYS
from bitcoin_sprint.control import cli, logs, service, sprintd


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """An empty environment, and a ``sprintd`` that ends where it would start its processes."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("SPRINT_"):
            monkeypatch.delenv(name)

    async def run(*_arguments, **_options):
        return None

    monkeypatch.setattr(service, "run", run)
    monkeypatch.setattr(sprintd.NurserySpawner, "prepare", lambda _self: None)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    return tmp_path


def _both(capsys, *arguments):
    """Exit code and line of sprintd and of sprint config check."""
    said = []
    for name, main in (
        ("sprintd", sprintd.main),
        ("sprint", lambda given: cli.main(["config", "check", *given])),
    ):
        code = main(list(arguments))
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if not line.startswith("sprint: warning: ")]
        said.append((code, [line.removeprefix(f"{name}: ") for line in errors]))
    return said


_WRONG = [
    "log.level=loud",
    "ingest.p2p=nonsense",
    'ingest.zmq=[{"addresses":["tcp://nowhere"]}]',
    'ingest.zmq=[{"addresses":["tcp://h:1"],"rpc_url":"ftp://h"}]',
    "relay.bind_host=not a host",
    "relay.zmq_curve_key_file=/nowhere/key",
    "ring.group=no-such-group",
    "ring.directory=/nowhere",
    "ingest.replay=/nowhere",
    "relay.tiers.free.zmq_port=7400",
    "relay.tiers.fre.zmq_port=7400",
    "instance=Über",
    "nothing",
    "=x",
]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("assignment", _WRONG)
def test_sprintd_and_config_check_refuse_in_the_same_line(capsys, assignment):
    daemon, command = _both(capsys, f"--set={assignment}")
    assert daemon == command
    code, lines = daemon
    assert code == 2
    assert len(lines) == 1


_TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40),
    st.sampled_from(["true", "1", "-1", "500us", "64MiB", "127.0.0.1:1", "[]", "[{}]", "regtest"]),
    st.integers().map(str),
)


@pytest.mark.usefixtures("quiet")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from([*KEYS, "no.such_key"]), value=_TEXTS)
def test_whatever_is_set_both_judge_alike_and_say_so_in_one_line(capsys, key, value):
    daemon, command = _both(capsys, f"--set={key}={value}")
    assert daemon == command
    code, lines = daemon
    assert (code, len(lines)) in ((0, 0), (2, 1))
    if code:
        assert key in lines[0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("sprint.toml", b"[log]\nlevel = \n", ["sprint.toml", "line 2"]),
        ("sprint.toml", b"\xff", ["sprint.toml", "must be UTF-8"]),
        (".env", b"TIER=gold\n", ["tier = 'gold'", ".env, TIER", "turbo, enterprise"]),
        (".env", b"TIER\n", [".env, line 1", "must be KEY=value"]),
        (".env", b"SPRINT_TEIR=free\n", ["SPRINT_TEIR", ".env", "did you mean SPRINT_TIER?"]),
    ],
)
def test_a_file_that_is_wrong_is_named_with_line_or_value(quiet, capsys, name, content, words):
    (quiet / name).write_bytes(content)
    arguments = ["--config", str(quiet / name)] if name != ".env" else []
    daemon, command = _both(capsys, *arguments)
    assert daemon == command
    code, (line,) = daemon
    assert code == 2
    assert all(word in line for word in words)


@pytest.mark.usefixtures("quiet")
def test_a_working_directory_that_was_removed_holds_nothing_and_is_no_trouble(
    capsys, tmp_path, monkeypatch
):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert [code for code, _ in _both(capsys)] == [0, 0]


@pytest.mark.usefixtures("quiet")
def test_a_cookie_that_is_not_there_is_a_warning_and_no_error(capsys):
    node = {"addresses": ["tcp://h:1"], "rpc_url": "http://h:1", "rpc_cookie": "/nowhere"}
    assignment = f"--set=ingest.zmq={json.dumps([node])}"
    assert cli.main(["config", "check", assignment]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("sprint: warning: ingest.zmq[0].rpc_cookie = '/nowhere' (flag): cannot")
    assert out == f"ok: {len(KEYS)} keys\n"
    assert cli.main(["config", "check", "--json", assignment]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 1


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("columns", ["40", "200"])
def test_show_has_every_key_its_value_and_its_origin_and_no_secret(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TIER", "Developer")
    node = {"addresses": ["tcp://h:1"], "rpc_url": "http://u:sesame@h:1", "rpc_password": "hunter2"}
    arguments = ["config", "show", f"--set=ingest.zmq={json.dumps([node])}"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= int(columns) for line in shown.splitlines())
    assert cli.main([*arguments, "--json"]) == 0
    as_json = capsys.readouterr().out
    values = json.loads(as_json)
    assert list(values) == list(KEYS)
    assert values["tier"] == {"value": "pro", "from": "environment, TIER"}
    for text in (shown, as_json):
        assert "hunter2" not in text
        assert "sesame" not in text
    if columns == "200":
        assert all(key in shown for key in KEYS)
