"""What the configuration names on this host: looked at before anything starts.

A file or group that must be there is an error; what may come later (the cookie of a node that is
not up yet) is a warning. Nothing is created, resolved or connected to.
"""

from __future__ import annotations

import grp
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bitcoin_sprint.config.schema import Config
from bitcoin_sprint.errors import ConfigError

_CURVE_KEY: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


def check_host(config: Config, sources: Mapping[str, str]) -> list[str]:
    """Return warnings, a line each; raise ConfigError for what the engine could not start with."""

    def refuse(path: str, value: str, why: str) -> None:
        raise ConfigError(f"{path} = {value!r} ({sources[path]}): {why}")

    group = config.ring.group
    if group and not _group_exists(group):
        refuse("ring.group", group, "there is no such group on this host")
    key_file = config.relay.zmq_curve_key_file
    if key_file and (why := _why_no_curve_key(Path(key_file).expanduser())):
        refuse("relay.zmq_curve_key_file", key_file, why)
    directory = config.ring.directory
    if directory and not Path(directory).is_dir():
        refuse("ring.directory", directory, "there is no such folder")
    for text in config.ingest.replay:
        if why := _why_unreadable(Path(text).expanduser()):
            refuse("ingest.replay", text, why)
    return list(_cookie_warnings(config, sources))


def _cookie_warnings(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    for index, node in enumerate(config.ingest.zmq):
        why = _why_unreadable(Path(node.rpc_cookie).expanduser()) if node.rpc_cookie else ""
        if why:
            yield (
                f"ingest.zmq[{index}].rpc_cookie = {node.rpc_cookie!r} ({sources['ingest.zmq']}): "
                f"{why}; until it is there, nothing is asked by RPC"
            )


def _group_exists(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _why_unreadable(path: Path) -> str:
    try:
        os.stat(path)  # noqa: PTH116
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if os.access(path, os.R_OK) else "cannot be read: Permission denied"


def _why_no_curve_key(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        text = ""
    return (
        "" if _CURVE_KEY.fullmatch(text) else "must hold 40 characters of Z85, a CURVE secret key"
    )
