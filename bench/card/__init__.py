"""The whole command on a card: `python -m bench.card`. See bench/README.md."""
