"""Where the installed commands ``sprint`` and ``sprintd`` come in.

Loading a command takes a few tenths of a second. Ctrl-C within them ends the process by the signal,
as any program's end; Python would show where it was in its imports.

Whoever starts us may have closed standard descriptors (``sprintd >&- 2>&-``). What we open first
would then stand for them: a socket would get what is printed, and libuv aborts when it closes one.
"""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any, Final

_STANDARD: Final = (0, 1, 2)


def sprint() -> int:
    """Run ``sprint``; return the exit code."""
    return _run("bitcoin_sprint.control.cli")


def sprintd() -> int:
    """Run ``sprintd``; return the exit code."""
    return _run("bitcoin_sprint.control.sprintd")


def _run(name: str) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_standard_descriptors()
    module: Any = importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code: int = module.main()
    except KeyboardInterrupt:
        return 0
    return code


def _open_standard_descriptors() -> None:
    """Have those of the standard descriptors that are closed lead nowhere."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) in _STANDARD:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
