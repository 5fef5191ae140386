"""``python -m bench SUITE [--json] [--quick] [--smoke]``."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from bench.report import Effort, Report


def suites() -> list[str]:
    """The names of all suites there are."""
    return sorted(
        path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py")
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs one suite; 0 whether targets were met or not, since a measurement is no test."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("suite", choices=suites())
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="under 100 seconds, rougher tails")
    effort.add_argument("--smoke", action="store_true", help="a few seconds: does it run at all")
    options = parser.parse_args(arguments)
    size = Effort.SMOKE if options.smoke else Effort.QUICK if options.quick else Effort.FULL
    suite = importlib.import_module(f"bench.bench_{options.suite}")
    report: Report = suite.run(size)
    print(report.as_json() if options.json else report.as_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
