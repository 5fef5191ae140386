"""C sources of the benches as shared libraries, made when first used, kept in ``build/bench``."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_FLAGS = [
    "-std=c11",
    "-O3",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror",
]


def compiled(name: str) -> Path:
    """The library made of ``bench/native/<name>.c``; made anew when that or a header changes."""
    source = _ROOT / "bench" / "native" / f"{name}.c"
    inputs = [source, *sorted((_ROOT / "native").glob("**/*.h"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()[:16]
    target = _ROOT / "build" / "bench" / f"{name}-{digest}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        making = target.with_suffix(f".{os.getpid()}")
        compiler = shlex.split(os.environ.get("CC", "cc"))
        places = ["-I", str(_ROOT / "native"), "-I", str(_ROOT / "native" / "include")]
        command = [*compiler, *_FLAGS, *places, str(source), "-o", str(making), "-pthread"]
        subprocess.run(command, check=True)
        making.rename(target)
    return target
