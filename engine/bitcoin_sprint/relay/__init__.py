"""The relay: one worker process a tier, from the rings to that tier's subscribers."""
