"""Rates with bursts."""

from __future__ import annotations

from bitcoin_sprint.ingest.p2p_connection import TokenBucket


def test_a_token_bucket_allows_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(10.0, 5.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert bucket.take(0.1)
    assert not bucket.take(0.1)
    assert bucket.take(100.0, 5.0)
    assert not bucket.take(100.0)
