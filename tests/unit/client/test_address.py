import pytest

from bitcoin_sprint.client.address import Address, parse_address
from bitcoin_sprint.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:7403", Address("tcp", host="127.0.0.1", port=7403)),
        ("tcp://[::1]:7403", Address("tcp", host="::1", port=7403)),
        ("unix:///run/sprint/main.turbo.sock", Address("unix", path="/run/sprint/main.turbo.sock")),
        ("zmq+tcp://relay.example:7413", Address("zmq", host="relay.example", port=7413)),
    ],
)
def test_the_three_forms_are_understood(text, address):
    assert parse_address(text) == address


def test_zeromq_gets_its_own_endpoint_back():
    assert parse_address("zmq+tcp://[::1]:1").zmq_endpoint == "tcp://[::1]:1"
    assert parse_address("zmq+tcp://h:1").zmq_endpoint == "tcp://h:1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:7403",
        "tcp://127.0.0.1",
        "tcp://:7403",
        "tcp://h:99999",
        "tcp://h:1/path",
        "unix://relative",
        "unix:",
        "udp://h:1",
    ],
)
def test_anything_else_is_a_configuration_error_that_quotes_it(text):
    with pytest.raises(ConfigError, match="address = "):
        parse_address(text)
