"""What a run has in the store, read back: its frozen plan and shards, and the records that count."""
