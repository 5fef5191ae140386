"""Log lines: one an event, contract texts word for word in either format."""

import io
import json
import logging

import pytest

from bitcoin_sprint.config import LogConfig
from bitcoin_sprint.control import logs

_TURBO = "⚡ Turbo mode enabled: writeDeadline=500µs sharedMemory=true blockBufferSize=2048"


def _record(message, *arguments, extra=None, error=None):
    logger = logging.getLogger("bitcoin_sprint.ingest.peers")
    information = (type(error), error, error.__traceback__) if error else None
    return logger.makeRecord(
        logger.name, logging.WARNING, "f", 1, message, arguments, information, extra=extra
    )


def test_a_json_line_is_one_object_with_message_and_fields():
    line = logs.Json("ingest").format(_record("peer %s lost", "a:1", extra={"bytes": 5}))
    event = json.loads(line)
    assert "\n" not in line
    assert event["message"] == "peer a:1 lost"
    assert (event["level"], event["process"], event["logger"]) == (
        "warning",
        "ingest",
        "ingest.peers",
    )
    assert event["bytes"] == 5
    assert event["time"].endswith("Z")


@pytest.mark.parametrize("formatter", [logs.Json, logs.Logfmt])
def test_contract_texts_stand_word_for_word_in_either_format(formatter):
    assert _TURBO in formatter("sprintd").format(_record("%s", _TURBO))


def test_a_logfmt_line_quotes_what_needs_it_and_stays_one_line():
    extra = {"reason": 'said "no"', "count": 3, "why": "a\nb"}
    line = logs.Logfmt("ingest").format(_record("two\nlines", extra=extra))
    assert line.endswith(r'warning ingest: two lines reason="said \"no\"" count=3 why="a\nb"')


@pytest.mark.parametrize("formatter", [logs.Json, logs.Logfmt])
def test_an_exception_is_a_field_and_never_a_bare_stack_trace(formatter):
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        line = formatter("ingest").format(_record("failed", error=error))
    assert "\n" not in line
    assert "RuntimeError: boom" in line
    assert "Traceback" in line


def test_values_of_any_type_can_be_fields():
    line = logs.Json("ingest").format(_record("x", extra={"what": object()}))
    assert "object object" in json.loads(line)["what"]


def test_a_field_never_hides_what_every_line_has():
    event = json.loads(logs.Json("relay").format(_record("x", extra={"level": "merkle"})))
    assert (event["level"], event["level_"]) == ("warning", "merkle")


def test_under_journald_a_line_carries_its_priority():
    assert logs.Json("ingest", journald=True).format(_record("x")).startswith("<4>{")


def test_configure_sends_all_logs_to_standard_error_at_the_level_given(monkeypatch):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    try:
        logs.configure(LogConfig(level="warning", format="auto"), "ingest")
        logging.getLogger("bitcoin_sprint.x").info("quiet")
        logging.getLogger("bitcoin_sprint.x").warning("loud")
    finally:
        root.handlers[:], root.level = before
        logging.captureWarnings(False)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "loud"
