"""inpaint-ops run | plan | report."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import Any

import click

from inpaint_ops.cli.options import (
    EXIT_NOT_ALL_DONE,
    as_command,
    job_of,
    job_options_of,
    json_option,
    named_options,
    preset_option,
    with_preset,
    workspace_of,
)
from inpaint_ops.cli.progress import progress_bars
from inpaint_ops.cli.terminal import say, say_json, say_json_lines
from inpaint_ops.config import load_settings
from inpaint_ops.device import choose_devices, local_card
from inpaint_ops.errors import InpaintOpsError
from inpaint_ops.layout import check_run_name, run_name_from
from inpaint_ops.locations import parse
from inpaint_ops.records import RunSummary
from inpaint_ops.runs import (
    ShardQueue,
    Workspace,
    finish,
    make_plan,
    prepare,
    prepare_retry,
    summary_lines,
    unfinished_shards,
    why_rejected,
)
from inpaint_ops.runs.checking import check_models
from inpaint_ops.runs.missing import missing_objects
from inpaint_ops.wording import counted

_REJECTED_SHOWN = 10
"""Rejected rows whose errors `run` prints before it begins."""


@click.command()
@click.argument("manifest")
@click.option("--out", metavar="PREFIX", help="Where runs land: a folder or s3://bucket/prefix [INPAINT_STORE].")
@click.option("--run", "run_name", help="The run's name; default: the manifest's. The same name and manifest resume.")
@click.option(
    "--retry",
    metavar="ROWS",
    help="Do only these rows of the run again: failed, rejected, unchanged, or ids, with commas between.",
)
@click.option(
    "--devices",
    default="1",
    show_default=True,
    metavar="auto|N|0,2",
    help="What paints at a time: all GPUs of this machine, so many, or these; without a GPU, so many workers.",
)
@preset_option
@job_options_of
@json_option
@as_command
def run(
    manifest: str,
    out: str | None,
    run_name: str | None,
    retry: str | None,
    devices: str,
    preset: str | None,
    allow: tuple[str, ...],
    as_json: bool,
    **chosen: Any,
) -> None:
    """Paint every row of MANIFEST (a path or URI of .jsonl, .csv, .parquet or .xlsx, or a folder of .parquet).

    With --retry, MANIFEST is the run's own, or one that holds corrected rows with the same ids.

    SIGTERM and Ctrl-C begin nothing further and let what is painted end within INPAINT_GRACE; a second one does not.

    Exit code 0: all rows done; 1: an internal error; 2: usage or configuration; 3: some rows failed or were rejected.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = load_settings(progress_interval=1.0)  # for the bar; a task's log wants it less often
    workspace = workspace_of(settings, out, manifest, allow)
    default = Path(parse(manifest).name).stem + ("-sample" if chosen["sample"] is not None else "")
    name = check_run_name(run_name) if run_name else run_name_from(default)
    chosen = with_preset(workspace, preset, chosen)
    named = named_options(chosen)
    job = job_of(settings, chosen)
    count = choose_devices(devices, job.device)
    if retry is None:
        card = local_card(job.device)
        plan = prepare(workspace, manifest, name, job, card=card, devices=count, find_model="here")
        shards = unfinished_shards(workspace, plan)
        rows, notes = plan.rows, plan.warnings
        ended = plan.rows - sum(shard.rows for shard in shards)  # the rejected rows among them
        if plan.shard_basis:
            say(f"inpaint-ops: {plan.shard_basis}", err=True)
        for line in why_rejected(workspace, plan, _REJECTED_SHOWN):
            say(f"inpaint-ops: rejected: {line}", err=True)
        if plan.rejected > _REJECTED_SHOWN:
            say(f"inpaint-ops: {plan.rejected - _REJECTED_SHOWN:,} more are in rejected.jsonl", err=True)
    else:
        again = prepare_retry(workspace, manifest, name, retry, job, chosen=named, find_model="here")
        shards, ended, notes = again.retry.shards if again.retry else (), 0, again.notes
        rows = again.retry.rows if again.retry else 0
    for note in notes:
        say(f"inpaint-ops: {note}", err=True)
    with progress_bars(rows, ended, shards, count, hidden=as_json) as show:
        queue = ShardQueue(
            workspace, name, [shard.name for shard in shards], count,
            on_progress=show, on_note=lambda line: say(f"inpaint-ops: {line}", err=True),
        )  # fmt: skip
        try:
            queue.paint()
        except InpaintOpsError:
            with contextlib.suppress(InpaintOpsError):  # what stopped the shards may stop this, and is reported anyway
                finish(workspace, name)
            raise
    summary = finish(workspace, name)
    if as_json:
        say_json(summary.model_dump(mode="json"))
    else:
        _print_summary(workspace, summary)
        _print_how_to_retry(summary)
    if summary.verdict != "VALID" or summary.counts.done != summary.counts.rows:
        sys.exit(EXIT_NOT_ALL_DONE)


def _print_how_to_retry(summary: RunSummary) -> None:
    counts = summary.counts
    states = [name for name, count in (("failed", counts.failed), ("rejected", counts.rejected)) if count]
    if states and not counts.missing:
        say(f"  after the repair: the same command with --retry {','.join(states)} does these rows again")


def _print_summary(workspace: Workspace, summary: RunSummary) -> None:
    for line in summary_lines(workspace, summary):
        say(line)


@click.command()
@click.argument("manifest")
@click.option("--out", metavar="PREFIX", help="Where the run would land [INPAINT_STORE].")
@click.option(
    "--devices", type=click.IntRange(1), default=1, show_default=True, help="Devices that would share the shards."
)
@click.option("--card", metavar="NAME", help="What will paint, as nvidia-smi names it; default: this machine's.")
@preset_option
@job_options_of
@json_option
@as_command
def plan(
    manifest: str,
    out: str | None,
    devices: int,
    card: str | None,
    preset: str | None,
    allow: tuple[str, ...],
    as_json: bool,
    **chosen: Any,
) -> None:
    """Tell what a run of MANIFEST would do: rows, shards, expected seconds and memory. Writes nothing.

    Exit code 3 if rows are rejected or their files are missing, 2 if there is no such model.
    """
    settings = load_settings()
    workspace = workspace_of(settings, out or settings.store or parse(manifest).parent.uri, manifest, allow)
    job = job_of(settings, with_preset(workspace, preset, chosen))
    card = card or local_card(job.device)
    about_models = check_models(workspace.storage, job, must_be_here=False)
    made, parsed = make_plan(workspace, manifest, "plan", job, card=card, devices=devices)
    notes = [*parsed.notes, *about_models]
    missing = list(missing_objects(workspace.storage, parsed, ask_each=False))
    if as_json:
        body = made.model_dump(mode="json") | {"warnings": notes, "missing_objects": missing}
        del body["rejected_rows"]
        say_json_lines(body, "rejected_rows", (row.error.message for row in parsed.rejected))
        sys.exit(EXIT_NOT_ALL_DONE if parsed.rejected or missing else 0)
    # always `rows` and `shards`: scripts look for these words
    say(f"{made.rows} rows: {len(parsed.accepted)} to paint, {made.rejected} rejected; {len(made.shards)} shards")
    for note in notes:
        say(f"  note: {note}")
    for row in parsed.rejected:
        say(f"  {row.error.message}")
    for line in missing:
        say(f"  {line}")
    for shard in made.shards[:20]:
        say(f"  shard {shard.name}: {counted(shard.rows, 'row')}, {shard.first_row} to {shard.last_row}")
    if len(made.shards) > 20:
        say(f"  ... and {len(made.shards) - 20} more")
    say(f"shards: {made.shard_basis}")
    if made.forecast is not None:
        say(f"forecast: {made.forecast.in_words()}")
    if parsed.rejected or missing:
        sys.exit(EXIT_NOT_ALL_DONE)


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--out", metavar="PREFIX", help="Where runs are [INPAINT_STORE].")
@click.option("--allow", multiple=True, metavar="PREFIX", help="A prefix that the gallery's sources lie under.")
@json_option
@as_command
def report(run_name: str, out: str | None, allow: tuple[str, ...], as_json: bool) -> None:
    """Rebuild RUN's summary, tables and page from its records. Exit code 3 if rows failed or were rejected."""
    workspace = workspace_of(load_settings(), out, None, allow)
    plan_of_run = workspace.plan(run_name)
    if plan_of_run is not None:
        workspace = workspace_of(load_settings(), out, plan_of_run.manifest, allow)
    summary = finish(workspace, run_name)
    if as_json:
        say_json(summary.model_dump(mode="json"))
    else:
        _print_summary(workspace, summary)
    if summary.verdict != "VALID" or summary.counts.done != summary.counts.rows:
        sys.exit(EXIT_NOT_ALL_DONE)
