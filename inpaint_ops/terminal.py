"""What the command line prints: one plain line at a time, whatever stands in names that came from elsewhere."""

from __future__ import annotations

import json

import click

from inpaint_ops.errors import one_line


def say(text: str, *, err: bool = False) -> None:
    """Print a line for people. What could command a terminal, or pass for another line, is escaped (CWE-150)."""
    click.echo(one_line(text), err=err)


def say_json(value: object) -> None:
    """Print a line of JSON for scripts, in ASCII: it may end on a terminal too."""
    click.echo(json.dumps(value))
