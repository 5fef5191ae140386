"""Which cores are taken, and whether they are quiet."""

from __future__ import annotations

import os
import subprocess
import sys

from bench import cores


def test_writer_and_reader_have_cores_of_their_own_where_there_are_two() -> None:
    writer, reader = cores.two_cores()
    allowed = os.sched_getaffinity(0)
    assert {writer, reader} <= allowed
    assert writer != reader or len(allowed) == 1


def test_a_busy_core_is_noticed() -> None:
    writer, reader = cores.two_cores()
    spin = f"import os\nos.sched_setaffinity(0, {{{reader}}})\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout is not None
            busy.stdout.readline()
            assert cores.await_quiet((writer, reader), 0.2) > 0.5
        finally:
            busy.kill()
