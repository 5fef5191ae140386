"""A rate with a burst."""

from __future__ import annotations

from bitcoin_sprint.ingest.token_bucket import TokenBucket


def test_a_token_bucket_refills_up_to_its_burst() -> None:
    bucket = TokenBucket(10.0, 20.0, now=0.0)
    assert bucket.take(20, 0.0)
    assert not bucket.take(1, 0.0)
    assert bucket.take(10, 1.0)
    assert not bucket.take(1, 1.0)
    assert bucket.take(20, 100.0)
    assert not bucket.take(1, 100.0)
