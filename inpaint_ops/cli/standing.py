"""inpaint-ops standing: what the standing jobs of a store say, and what each would take now."""

from __future__ import annotations

import sys
from typing import Any

import click

from inpaint_ops.cli.options import EXIT_NOT_ALL_DONE, as_command, json_option
from inpaint_ops.cli.terminal import say, say_json
from inpaint_ops.config import load_settings
from inpaint_ops.errors import ConfigError, InpaintOpsError
from inpaint_ops.records import now
from inpaint_ops.runs import Workspace
from inpaint_ops.standing import Entry, read_entries
from inpaint_ops.standing.taking import find, read_taken


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--out", metavar="PREFIX", help="The store, which has the entries in jobs/ [INPAINT_STORE].")
@click.option("--allow", multiple=True, metavar="PREFIX", help="A further prefix that rows may read from.")
@json_option
@as_command
def standing(names: tuple[str, ...], out: str | None, allow: tuple[str, ...], as_json: bool) -> None:
    """Check the standing jobs of a store, all or those named, and tell what each would take now. Starts nothing.

    Exit code 3 if an entry cannot be used.
    """
    workspace = Workspace.open(load_settings(), store=out, also_readable=allow)
    entries = {name: entry for name, _, entry in read_entries(workspace)}
    if missing := [name for name in names if name not in entries]:
        raise ConfigError(f"there is no standing job {missing[0]!r} in {workspace.places.jobs}")
    told = [_tell(workspace, name, entry) for name, entry in entries.items() if not names or name in names]
    if as_json:
        say_json(told)
    else:
        for one in told:
            say(_line(one))
            for note in one.get("notes", ()):
                say(f"  {note}")
        if not told:
            say(f"there are no standing jobs: write {workspace.places.jobs}<name>.yaml")
    sys.exit(EXIT_NOT_ALL_DONE if any("error" in one for one in told) else 0)


def _tell(workspace: Workspace, name: str, entry: Entry | ConfigError) -> dict[str, Any]:
    try:
        if isinstance(entry, ConfigError):
            raise entry
        found = find(workspace, entry)
    except InpaintOpsError as error:
        if not error.permanent:
            raise
        return {"job": name, "error": str(error)}
    taken = read_taken(workspace, name).digests
    following = entry.next_time(now())
    return {
        "job": name,
        "enabled": entry.enabled,
        "schedule": entry.schedule,
        "on_arrival": entry.on_arrival,
        "timezone": entry.timezone,
        "next": following.isoformat() if following else None,
        "rows": len(found.rows),
        "new": sum(row.digest not in taken for row in found.rows),
        "notes": list(found.notes),
    }


def _line(one: dict[str, Any]) -> str:
    if "error" in one:
        return f"{one['job']}: {one['error']}"
    if not one["enabled"]:
        when = "not enabled"
    elif one["next"] is None:
        when = "when something comes" if one["on_arrival"] else "by hand"
    else:
        when = f"next {one['next'][:16].replace('T', ' ')} UTC ({one['schedule']}, {one['timezone']})"
        when += ", and when something comes" if one["on_arrival"] else ""
    return f"{one['job']}: {when}; {one['new']:,} of {one['rows']:,} rows are new"
