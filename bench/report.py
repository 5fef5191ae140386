"""What a suite reports: rows of one measurement each, beside a peer's where there is one."""

from __future__ import annotations

import enum
import json
import sys
from dataclasses import dataclass, field
from typing import Any


class Effort(enum.Enum):
    """How long a suite may take: minutes, under 100 seconds, a few seconds."""

    FULL = "full"
    QUICK = "quick"
    SMOKE = "smoke"


def progress(text: str) -> None:
    """One line on standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Row:
    """One figure. ``ratio`` is above 1 where we are ahead; ``target`` is the least ratio wanted.

    ``higher_is_better`` is for rates; latencies and sizes leave it out.
    """

    name: str
    ours: float
    unit: str
    peer: str | None = None
    theirs: float | None = None
    target: float | None = None
    higher_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times we are ahead; nothing where there is no peer's figure."""
        if self.theirs is None or not self.ours or not self.theirs:
            return None
        quotient = self.theirs / self.ours
        return 1 / quotient if self.higher_is_better else quotient

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; nothing where there is none or it could not be tried."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in the JSON."""
        return {
            "name": self.name,
            "peer": self.peer,
            "ours": _short(self.ours),
            "theirs": _short(self.theirs),
            "unit": self.unit,
            "ratio": _short(self.ratio),
            "target": self.target,
            "met": self.met,
        }


@dataclass
class Report:
    """A suite's rows, and tables for human eyes that say the same side by side."""

    suite: str
    rows: list[Row] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """One line."""
        return json.dumps({"suite": self.suite, "rows": [row.as_dict() for row in self.rows]})

    def as_table(self) -> str:
        """The tables, then every row that has a target."""
        lines = [*self.tables, "Targets"]
        for row in self.rows:
            if row.target is not None:
                verdict = {True: "met", False: "MISSED", None: "not tried"}[row.met]
                theirs = "-" if row.theirs is None else f"{_short(row.theirs):g}"
                ratio = "-" if row.ratio is None else f"{row.ratio:.3g}x"
                lines.append(
                    f"  {row.name}: {_short(row.ours):g} {row.unit}, {row.peer} {theirs}; "
                    f"{ratio} (target {row.target:g}x) {verdict}"
                )
        return "\n".join(lines)


def grid(title: str, columns: list[str], lines: list[tuple[str, list[float | None]]]) -> str:
    """A table as text: one line a label, one column a contestant."""
    widths = [max(len(column), 9) for column in columns]
    label_width = max(len(label) for label, _ in lines)
    text = [
        title,
        " " * label_width + "".join(f"  {c:>{w}}" for c, w in zip(columns, widths, strict=True)),
    ]
    for label, values in lines:
        cells = ("-" if value is None else f"{_short(value):g}" for value in values)
        text.append(
            f"{label:<{label_width}}"
            + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True))
        )
    return "\n".join([*text, ""])


def _short(value: float | None) -> float | None:
    """Four significant digits: more would be noise."""
    return None if value is None else float(f"{value:.4g}")
