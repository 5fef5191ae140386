"""Bitcoin Sprint: blocks and transactions, proved, in shared memory and on the wire."""
