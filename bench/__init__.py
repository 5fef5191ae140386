"""Measurements beside other software, all in one run: ``make bench SUITE=<name> ARGS="--json"``.

A suite is a module ``bench_<name>.py`` with ``run(options) -> Report``. Progress goes to standard
error; standard output ends with one JSON object when ``--json`` is given, else with a table.
"""
