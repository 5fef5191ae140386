"""The keys of the configuration: derived from ``schema``, each with its type, unit and bounds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from bitcoin_sprint.config.addresses import without_credentials
from bitcoin_sprint.config.quantities import (
    format_duration,
    format_size,
    format_speed,
    parse_duration,
    parse_size,
    parse_speed,
)
from bitcoin_sprint.config.schema import Config, TierKeys
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.tiers import TIERS

_BOOLEANS: Final = {
    "true": True, "1": True, "yes": True, "on": True,
    "false": False, "0": False, "no": False, "off": False,
}  # fmt: skip
_UNFIT: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SHOWN_MAX: Final = 160
_SECRET_FIELDS: Final = frozenset({"rpc_password"})


class Key(msgspec.Struct, frozen=True):
    """One key: ``path`` as in files, ``field`` as in the structs, its plain type and bounds."""

    path: str
    field: str
    type: Any
    meta: msgspec.Meta | None

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "SPRINT_" + self.path.replace(".", "_").upper()

    def convert(self, value: object, source: str) -> Any:
        """Return ``value`` (TOML or text) as the struct's type, bounds checked.

        ``source`` says where the value stands, for the error.
        """
        try:
            converted = self._typed(value)
            self._check_bounds(converted)
        except ValueError as error:
            raise ConfigError(f"{self.path} = {shown(value)} ({source}): {error}") from None
        return converted

    def render(self, value: Any) -> Any:
        """Return the struct's value as it is written in files."""
        if self.field.endswith("_ns"):
            return format_duration(value)
        if self.field.endswith("_bytes"):
            return format_size(value)
        if self.field.endswith("_speed"):
            return format_speed(value)
        if self.field == "mode":
            return f"{value:04o}"
        if isinstance(value, tuple):
            return [
                msgspec.structs.asdict(item) if isinstance(item, msgspec.Struct) else item
                for item in value
            ]
        return value

    def _typed(self, value: object) -> Any:
        if self.field.endswith("_ns"):
            return parse_duration(_text(value, 'a duration as text, such as "500us"'))
        if self.field.endswith("_bytes"):
            return parse_size(_text(value, 'a size as text, such as "256MiB"'))
        if self.field.endswith("_speed"):
            return parse_speed(_text(value, 'a speed as text, such as "60x"'))
        if self.field == "mode":
            return _octal(value)
        if self.type is bool:
            return _boolean(value)
        if self.type is int:
            return _integer(value)
        if self.type is str:
            return _text(value, "text")
        if get_origin(self.type) is Literal:
            return _choice(value, get_args(self.type))
        return _items(value, get_args(self.type)[0])

    def _check_bounds(self, value: Any) -> None:
        meta = self.meta
        if meta is None:
            return
        if meta.ge is not None and meta.le is not None and not meta.ge <= value <= meta.le:
            raise ValueError(f"must be {self.render(meta.ge)} to {self.render(meta.le)}")
        if meta.pattern is not None and not re.search(meta.pattern, value):
            raise ValueError(f"must match {meta.pattern}")


def shown(value: object) -> str:
    """Return a value as errors show it: one short line, without a secret."""
    text = without_credentials(repr(value))
    if any(name in text for name in _SECRET_FIELDS):
        return "(hidden)"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _text(value: object, expected: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be {expected}")
    if _UNFIT.search(value):
        raise ValueError(f"must be {expected}, without control characters, in UTF-8")
    return value


def _octal(value: object) -> int:
    text = _text(value, 'octal permissions as text, such as "0640"')
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError('must be octal permissions, such as "0640"')
    return int(text, 8)


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    found = _BOOLEANS.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be true or false")
    return found


def _integer(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9][0-9_]{0,24}\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def _choice(value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value.lower() not in choices:
        raise ValueError("must be one of " + ", ".join(choices))
    return value.lower()


def _items(value: object, item_type: Any) -> tuple[Any, ...]:
    if item_type is str:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError("must be a list of texts")
        texts = (_text(item, "a list of texts").strip() for item in items)
        return tuple(text for text in texts if text)
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value) if value.strip() else []
        except (msgspec.DecodeError, UnicodeError) as error:
            raise ValueError(f"must be JSON here: {error}") from None
    if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
        raise ValueError("must be a list of tables; in a file, each begins with its [[name]]")
    return tuple(_table(item, item_type, index) for index, item in enumerate(value))


def _table(table: dict[str, object], item_type: Any, index: int) -> Any:
    known = get_type_hints(item_type)
    for name, value in table.items():
        if name not in known:
            raise ValueError(f"table {index}, {shown(name)}: no such key{_hint(name, known)}")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                _text(text, f"a text in table {index}, {name}")
    try:
        return msgspec.convert(table, item_type)
    except msgspec.ValidationError as error:
        raise ValueError(f"table {index}: {error}") from None


def _keys_of(struct: type[msgspec.Struct], prefix: str) -> Iterator[Key]:
    hints = get_type_hints(struct, include_extras=True)
    for field in struct.__struct_fields__:
        hint, meta = hints[field], None
        if hasattr(hint, "__metadata__"):
            hint, meta = hint.__origin__, hint.__metadata__[0]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from _keys_of(hint, f"{prefix}{field}.")
        elif get_origin(hint) is dict:
            for tier in TIERS:
                yield from _keys_of(TierKeys, f"{prefix}{field}.{tier}.")
        else:
            name = re.sub("_(ns|bytes)$", "", field)
            yield Key(f"{prefix}{name}", field, hint, meta)


KEYS: Final[Mapping[str, Key]] = {key.path: key for key in _keys_of(Config, "")}
"""Every key by its path, in the order of the schema."""


def key_named(path: str, source: str) -> Key:
    """Return the key ``path``; ConfigError, with the likeliest meant, when there is none."""
    key = KEYS.get(path)
    if key is None and any(known.startswith(f"{path}.") for known in KEYS):
        raise ConfigError(f"{path} ({source}): must be a table, [{path}]")
    if key is None:
        raise unknown(path, KEYS, source)
    return key


def unknown(name: str, known: Mapping[str, object], source: str) -> ConfigError:
    """Return the error for a key or variable that does not exist."""
    written = name if name.isprintable() and len(name) <= _SHOWN_MAX else shown(name)
    return ConfigError(f"{written} ({source}): no such key{_hint(name, known)}")


def _hint(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name[:_SHOWN_MAX], known, n=1, cutoff=0.6)
    if not near:
        last = name.rpartition(".")[2]
        near = [path for path in known if path.rpartition(".")[2] == last][:1]
    return f"; did you mean {near[0]}?" if near else ""
