"""Bitcoin Sprint: blocks and transactions in shared memory and on the wire, proved as they arrive."""
