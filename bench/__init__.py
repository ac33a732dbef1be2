"""Benchmarks of the optimisation notes: `python -m bench.gpu` on a card, `python -m bench.cpu` anywhere."""
