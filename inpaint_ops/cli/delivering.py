"""inpaint-ops deliver: a run's images, handed on."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Literal

import click
from tqdm import tqdm

from inpaint_ops.cli.options import EXIT_NOT_ALL_DONE, as_command, json_option
from inpaint_ops.cli.terminal import say, say_json, say_whole
from inpaint_ops.config import list_side_products, load_settings
from inpaint_ops.delivering import Delivery, Linked, Sheet, deliver, deliver_link
from inpaint_ops.errors import ConfigError
from inpaint_ops.locations import parse
from inpaint_ops.runs import Workspace

_SHOWN = 20


@click.command("deliver")
@click.argument("run_name", metavar="RUN")
@click.option("--to", metavar="PREFIX|FILE.zip", help="A folder, s3://bucket/prefix, or a local ZIP file.")
@click.option(
    "--link",
    "hours",
    type=float,
    metavar="HOURS",
    help="In place of --to: a gallery, and a link to it that ends after so many hours. Whoever has it sees the images. "
    "INPAINT_LINK_HOURS must allow it.",
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
    to: str | None,
    hours: float | None,
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
    settings = load_settings()
    try:
        kinds = list_side_products(also or "")
    except ValueError as error:
        raise ConfigError(f"--also: {error}") from None
    if (to is None) == (hours is None):
        raise ConfigError("say where to, with --to, or --link HOURS for a gallery with a link: one of the two")
    if hours is not None and (replace or kinds or not contact_sheet):
        raise ConfigError("--link makes pages that link to the run's images: no --replace, --also, --no-contact-sheet")
    places = [parse(to)] if to is not None else []
    workspace = Workspace.open(settings, store=out, also_readable=allow, also_writable=places)
    if contact_sheet and sheet == "full" and (plan := workspace.plan(run_name)) is not None:
        sources = parse(plan.manifest).parent.uri
        workspace = Workspace.open(settings, store=out, also_readable=[*allow, sources], also_writable=places)
    with tqdm(unit="row", disable=as_json or not sys.stderr.isatty(), dynamic_ncols=True) as bar:

        def show(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        if hours is not None:
            linked = deliver_link(workspace, run_name, hours, only=only, sheet=sheet, progress=show)
        else:
            made = deliver(
                workspace, run_name, places[0], only=only, replace=replace, also=kinds, progress=show,
                contact_sheet=sheet if contact_sheet else None,
            )  # fmt: skip
    if hours is not None:
        _say_linked(linked, as_json=as_json)
        sys.exit(0 if linked.delivery.is_whole else EXIT_NOT_ALL_DONE)
    place = places[0]
    if kinds and not made.beside:
        say(f"inpaint-ops: the run has no {' or '.join(kinds)} beside its images: paint it with --also", err=True)
    if as_json:
        say_json(asdict(made) | {"to": place.uri})
    else:
        _print(made, place.uri)
    sys.exit(0 if made.is_whole else EXIT_NOT_ALL_DONE)


def _say_linked(made: Linked, *, as_json: bool) -> None:
    """The link alone on standard output, once; what is said of it on the other stream."""
    if as_json:
        told = asdict(made.delivery) | {"to": made.gallery.uri, "link": made.link, "end": made.end.isoformat()}
        say_json(told | {"shortened": made.shortened, "may_end_earlier": made.may_end_earlier})
        return
    delivery = made.delivery
    say(f"{delivery.delivered:,} of {delivery.rows:,} rows are in the gallery {made.gallery}", err=True)
    _print_counts(delivery, err=True)
    say(f"  the link ends on {made.end:%Y-%m-%d %H:%M} UTC; until then whoever has it sees these images", err=True)
    if made.shortened:
        say("  that is when the store's credentials end: earlier than asked for", err=True)
    if made.may_end_earlier:
        say("  the store's credentials are temporary: it ends when they do, if that is earlier", err=True)
    say_whole(made.link)


def _print(made: Delivery, place: str) -> None:
    say(f"{made.delivered:,} of {made.rows:,} rows have their image in {place}: {made.bytes:,} bytes, list SHA256SUMS")
    if made.there:
        say(f"  {made.there:,} were there already, with the same bytes")
    if copied := made.delivered - made.read:
        say(f"  {copied:,} were copied by the store: their sizes were compared, their digests were not")
    _print_counts(made)


def _print_counts(made: Delivery, *, err: bool = False) -> None:
    if made.chosen != made.rows:
        say(f"  accepted: {made.chosen:,}", err=err)
    if made.redone:
        say(f"  of child runs, accepted in place of the run's own: {made.redone:,}", err=err)
    if made.beside:
        say(f"  files beside them: {made.beside:,}", err=err)
    if made.failed or made.rejected:
        say(f"  rows without an image: {made.failed:,} failed, {made.rejected:,} rejected", err=err)
    if made.verdict != "VALID":
        say(f"  the run is {made.verdict}: its report says why", err=err)
    for line in made.left_out[:_SHOWN]:
        say(f"  left out: {line}", err=err)
    if len(made.left_out) > _SHOWN:
        say(f"  ... and {len(made.left_out) - _SHOWN:,} more", err=err)
