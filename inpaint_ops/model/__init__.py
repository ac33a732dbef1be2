"""Weights to a tuned pipeline.

`cache` knows where models lie, `sources` finds and verifies them, `random_weights` builds ours, `loading` loads,
`tuned` applies a tuning, `ledger` looks at what took effect. Importing this package imports no torch.
"""

from inpaint_ops.model.xformers_log import hold_back

hold_back()  # before anything here imports diffusers, which imports xFormers
