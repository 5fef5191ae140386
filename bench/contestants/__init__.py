"""What is measured side by side: each a ``bench.oneway.Contestant``."""
