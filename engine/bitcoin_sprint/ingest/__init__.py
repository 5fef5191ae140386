"""The ingest process: feeds bring blocks and transactions, the intake proves and publishes them."""
