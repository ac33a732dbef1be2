"""The command line: `inpaint-ops run | plan | validate | manifest | doctor | models | report | deliver | ...`."""

from inpaint_ops.cli.main import main

__all__ = ["main"]
