"""inpaint-ops deliver: a run's images, handed on."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Literal

import click
from tqdm import tqdm

from inpaint_ops.cli.options import EXIT_NOT_ALL_DONE, as_command, json_option
from inpaint_ops.cli.terminal import say, say_json
from inpaint_ops.config import list_side_products, load_settings
from inpaint_ops.delivering import Delivery, Sheet, deliver
from inpaint_ops.errors import ConfigError
from inpaint_ops.locations import parse
from inpaint_ops.runs import Workspace

_SHOWN = 20


@click.command("deliver")
@click.argument("run_name", metavar="RUN")
@click.option(
    "--to", required=True, metavar="PREFIX|FILE.zip", help="A folder, s3://bucket/prefix, or a local ZIP file."
)
@click.option("--out", metavar="PREFIX", help="Where runs are [INPAINT_STORE].")
@click.option(
    "--only",
    type=click.Choice(["done", "accepted"]),
    default="done",
    show_default=True,
    help="All rows that are done, or those whose image was accepted in a review.",
)
@click.option("--replace", is_flag=True, help="Replace what is there with other bytes.")
@click.option(
    "--contact-sheet/--no-contact-sheet", default=True, show_default=True, help="Pages of source, mask and result."
)
@click.option(
    "--sheet",
    type=click.Choice(["full", "results"]),
    default="full",
    show_default=True,
    help="The contact sheet's pictures: made of source, mask and result, or the results' own thumbnails, at no cost.",
)
@click.option("--also", metavar="patch,mask,preview", help="Files beside the images, too, as far as the run has any.")
@click.option("--allow", multiple=True, metavar="PREFIX", help="A prefix that the contact sheet's sources lie under.")
@json_option
@as_command
def deliver_run(
    run_name: str,
    to: str,
    out: str | None,
    only: Literal["done", "accepted"],
    replace: bool,
    contact_sheet: bool,
    sheet: Sheet,
    also: str | None,
    allow: tuple[str, ...],
    as_json: bool,
) -> None:
    """Hand on the images of RUN: under their names, with a contact sheet and a list of digests (sha256sum -c).

    Between prefixes of one S3 store, the store copies them itself. The same command goes on after an interruption.

    Where a reviewer accepted the image of a child run for a row, that one is delivered (see `inpaint-ops review`).

    Exit code 3 if a row that was to be delivered has no image there.
    """
    settings, place = load_settings(), parse(to)
    try:
        kinds = list_side_products(also or "")
    except ValueError as error:
        raise ConfigError(f"--also: {error}") from None
    workspace = Workspace.open(settings, store=out, also_readable=allow, also_writable=[place])
    if contact_sheet and sheet == "full" and (plan := workspace.plan(run_name)) is not None:
        sources = parse(plan.manifest).parent.uri
        workspace = Workspace.open(settings, store=out, also_readable=[*allow, sources], also_writable=[place])
    with tqdm(unit="row", disable=as_json or not sys.stderr.isatty(), dynamic_ncols=True) as bar:

        def show(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        made = deliver(
            workspace, run_name, place, only=only, replace=replace, contact_sheet=sheet if contact_sheet else None,
            also=kinds, progress=show,
        )  # fmt: skip
    if kinds and not made.beside:
        say(f"inpaint-ops: the run has no {' or '.join(kinds)} beside its images: paint it with --also", err=True)
    if as_json:
        say_json(asdict(made) | {"to": place.uri})
    else:
        _print(made, place.uri)
    sys.exit(0 if made.is_whole else EXIT_NOT_ALL_DONE)


def _print(made: Delivery, place: str) -> None:
    say(f"{made.delivered:,} of {made.rows:,} rows have their image in {place}: {made.bytes:,} bytes, list SHA256SUMS")
    if made.chosen != made.rows:
        say(f"  accepted: {made.chosen:,}")
    if made.redone:
        say(f"  of child runs, accepted in place of the run's own: {made.redone:,}")
    if made.beside:
        say(f"  files beside them: {made.beside:,}")
    if made.there:
        say(f"  {made.there:,} were there already, with the same bytes")
    if copied := made.delivered - made.read:
        say(f"  {copied:,} were copied by the store: their sizes were compared, their digests were not")
    if made.failed or made.rejected:
        say(f"  rows without an image: {made.failed:,} failed, {made.rejected:,} rejected")
    if made.verdict != "VALID":
        say(f"  the run is {made.verdict}: its report says why")
    for line in made.left_out[:_SHOWN]:
        say(f"  left out: {line}")
    if len(made.left_out) > _SHOWN:
        say(f"  ... and {len(made.left_out) - _SHOWN:,} more")
