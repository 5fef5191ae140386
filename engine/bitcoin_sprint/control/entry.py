"""Where the installed commands ``sprint`` and ``sprintd`` come in.

Loading a command takes a few tenths of a second. Ctrl-C within them ends the process by the signal,
as any program's end; Python would show where it was in its imports.
"""

from __future__ import annotations

import importlib
import signal
from typing import Any


def sprint() -> int:
    """Run ``sprint``; return the exit code."""
    return _run("bitcoin_sprint.control.cli")


def sprintd() -> int:
    """Run ``sprintd``; return the exit code."""
    return _run("bitcoin_sprint.control.sprintd")


def _run(name: str) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    module: Any = importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code: int = module.main()
    except KeyboardInterrupt:
        return 0
    return code
