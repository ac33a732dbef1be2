"""The command `inpaint-ops` and its subcommands."""

from __future__ import annotations

import logging
import os
import sys

import click

import inpaint_ops
from inpaint_ops.cli.delivering import deliver_run
from inpaint_ops.cli.doctor import diagnose
from inpaint_ops.cli.inspecting import inspect
from inpaint_ops.cli.manifests import manifest, validate
from inpaint_ops.cli.models import models
from inpaint_ops.cli.options import as_command, json_option
from inpaint_ops.cli.reviewing import review
from inpaint_ops.cli.running import plan, report, run
from inpaint_ops.cli.standing import standing
from inpaint_ops.cli.terminal import say, say_json
from inpaint_ops.cli.warm import become_warm_host
from inpaint_ops.config import load_settings, misspelt_variables


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(inpaint_ops.__version__)
@click.option("-v", "--verbose", is_flag=True, help="Log what happens, the workers' own lines too.")
def main(verbose: bool) -> None:
    """Bulk SDXL inpainting. A manifest goes in; every row comes out once, as an image or as a reason."""
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for line in misspelt_variables(os.environ):
        say(f"inpaint-ops: {line}", err=True)


@main.command()
@click.option("--out", metavar="PREFIX", help="A store to probe [INPAINT_STORE].")
@json_option
@as_command
def doctor(out: str | None, as_json: bool) -> None:
    """Tell what this machine can do and what is missing. Exit code 2 if a run could not work here."""
    checks = diagnose(load_settings(), out)
    if as_json:
        say_json([check.model_dump() for check in checks])
    else:
        for check in checks:
            say(f"{check.state:7}  {check.name:14}  {check.detail}")
    sys.exit(2 if any(check.state == "missing" for check in checks) else 0)


@main.command("warm-host")
@click.option("--socket", "path", metavar="PATH", help="Where it listens [INPAINT_WARM_HOST].")
@as_command
def warm_host(path: str | None) -> None:
    """Import what a worker imports, once, and fork each worker from that. Runs until it is ended.

    The socket is made in a folder that only this user can enter. It ends when what is installed changes, so have
    it started again whenever it ends. Runs use it where INPAINT_WARM_HOST names the socket.
    """
    become_warm_host(load_settings(warm_host=path))


for command in (run, plan, validate, manifest, models, report, review, deliver_run, inspect, standing):
    main.add_command(command)
