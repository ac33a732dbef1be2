"""`python -m inpaint_ops.cli`: the same as the command `inpaint-ops`."""

from inpaint_ops.cli.main import main

main()
