"""What the command line prints: one plain line at a time, whatever names from elsewhere hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from inpaint_ops.errors import escaped, one_line


def say(text: str, *, err: bool = False) -> None:
    """Print a line for people. What could command a terminal, or pass for another line, is escaped (CWE-150)."""
    click.echo(one_line(text), err=err)


def say_whole(text: str) -> None:
    """Print a line that must not be cut, such as a link with a session token of 2,000 characters; else as `say`."""
    click.echo(escaped(text))


def say_json(value: object) -> None:
    """Print a line of JSON for scripts, in ASCII: it may end on a terminal too."""
    click.echo(json.dumps(value))


def say_json_lines(fields: dict[str, Any], name: str, lines: Iterable[str]) -> int:
    """Print a JSON object whose last field is a list, line by line: each row may have one. Returns how many."""
    click.echo(f"{json.dumps(fields)[:-1]}, {json.dumps(name)}: [", nl=False)
    count = 0
    for count, line in enumerate(lines, 1):
        click.echo(f"{', ' if count > 1 else ''}{json.dumps(line)}", nl=False)
    click.echo("]}")
    return count
