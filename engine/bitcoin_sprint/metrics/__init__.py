"""Counters and latency histograms in shared memory: one writing process, any number of readers."""

from bitcoin_sprint.metrics.counters import Counter, Counters, label_process
from bitcoin_sprint.metrics.histogram import Histogram, HistogramSnapshot
from bitcoin_sprint.metrics.view import CountersView, Snapshot

__all__ = [
    "Counter",
    "Counters",
    "CountersView",
    "Histogram",
    "HistogramSnapshot",
    "Snapshot",
    "label_process",
]
