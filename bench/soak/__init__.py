"""The soak: hours' worth of simulated chain as fast as it goes, and does anything grow by it."""
