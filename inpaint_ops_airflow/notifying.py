"""A message when a run is over, by Airflow's own notifiers and connections; off unless INPAINT_NOTIFY names some.

The callbacks are those of the task `report`, not the DAG's: they run where the task ran, which reads the store, and
what goes wrong stands in that task's log. A DAG's callbacks run in the DAG processor, which may reach neither.
"""

from __future__ import annotations

import html
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from airflow.sdk.bases.notifier import BaseNotifier

    from inpaint_ops.records import RunSummary
    from inpaint_ops.runs import Workspace

log = logging.getLogger(__name__)

VARIABLE = "INPAINT_NOTIFY"
"""`webhook:CONNECTION`, `slack:CONNECTION`, `mail:CONNECTION`, with commas between. CONNECTION is the id of one of
Airflow's connections: of type HTTP for the first two, SMTP for mail."""
MAIL_TO = "INPAINT_NOTIFY_MAIL_TO"
"""Who gets mail: addresses, with commas between."""

KINDS = ("webhook", "slack", "mail")
PICTURES = 5
SECONDS = 20.0
"""How long a webhook is waited for."""
_HEAD_BYTES = 2**20
"""Of results.jsonl, from which the pictures are picked."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A result: the row's id, and where its small picture is, for whoever is signed in to Airflow."""

    id: str
    url: str


@dataclass(frozen=True, slots=True)
class Message:
    """What a notification says of a run that is over. `verdict` is VALID, INVALID, or REFUSED (nothing was planned)."""

    run: str
    verdict: str
    text: str
    page: str
    pictures: tuple[Picture, ...] = ()

    @property
    def subject(self) -> str:
        """One line: the name of a refused run may be anything."""
        return f"Inpainting {' '.join(self.run.split())[:200]}: {self.verdict}"

    def as_text(self) -> str:
        """For people who read plain text."""
        pictures = [f"{one.id}: {one.url}" for one in self.pictures]
        return "\n".join([self.subject, self.text, self.page, *pictures])

    def as_html(self) -> str:
        """For mail: text of manifests is escaped."""
        escaped = html.escape
        items = "".join(f'<li><a href="{escaped(one.url)}">{escaped(one.id)}</a></li>' for one in self.pictures)
        return (
            f"<p><strong>{escaped(self.subject)}</strong></p><p>{escaped(self.text)}</p>"
            f'<p><a href="{escaped(self.page)}">{escaped(self.page)}</a></p><ul>{items}</ul>'
        )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        pictures = [{"id": one.id, "url": one.url} for one in self.pictures]
        return {"run": self.run, "verdict": self.verdict, "text": self.text, "page": self.page, "pictures": pictures}


def notify(context: Mapping[str, Any]) -> None:
    """Notify all targets that INPAINT_NOTIFY names. Whatever goes wrong is logged, and nothing is raised."""
    if not os.environ.get(VARIABLE, "").strip():
        return
    try:
        message = _message(context)
    except Exception as error:
        log.exception("no notification was sent: its text could not be made (%s)", type(error).__name__)
        return
    for kind, connection in targets(os.environ):
        try:
            _notifier(kind, connection, message).notify(context)  # type: ignore[arg-type]
            log.info("notified by %s:%s", kind, connection)
        except Exception as error:  # its text may hold the address, which is a secret with some services
            log.error("notification by %s:%s failed: %s", kind, connection, _without_address(error))


def targets(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What INPAINT_NOTIFY names; what is no target is logged and left out."""
    for part in filter(None, (one.strip() for one in environment.get(VARIABLE, "").split(","))):
        kind, colon, connection = part.partition(":")
        if kind not in KINDS or not connection:
            shown = f"{kind}:" if colon else ""  # what follows may be an address with a secret in it
            log.error("%s: %r… names no target: write one of %s, a colon and the id of a connection", VARIABLE, shown,
                      ", ".join(KINDS))  # fmt: skip
        else:
            yield kind, connection


def _without_address(error: Exception) -> str:
    """The error's class, and the HTTP status that it begins with where it is of the HTTP hook."""
    status = str(error)[:3]
    return f"{type(error).__name__} {status}" if status.isdecimal() else type(error).__name__


def _notifier(kind: str, connection: str, message: Message) -> BaseNotifier:
    """One of Airflow's notifiers. Its fields are no templates: text from a manifest must never reach Jinja."""
    if kind == "mail":
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        class PlainMail(SmtpNotifier):
            template_fields = ()  # type: ignore[assignment]  # a tuple of none

        to = [one.strip() for one in os.environ.get(MAIL_TO, "").split(",") if one.strip()]
        if not to:
            raise ValueError(f"{MAIL_TO} names nobody")
        return PlainMail(to=to, subject=message.subject, html_content=message.as_html(), smtp_conn_id=connection)
    from airflow.providers.http.notifications.http import HttpNotifier

    class PlainHttp(HttpNotifier):
        template_fields = ()  # type: ignore[assignment]  # as above

    _hide_address(connection)
    # Slack reads <...> as links and mentions, so a manifest's name could call a whole channel.
    body = {"text": html.escape(message.as_text(), quote=False)} if kind == "slack" else message.as_json()
    return PlainHttp(http_conn_id=connection, endpoint="", json=body, extra_options={"timeout": SECONDS})


def _hide_address(connection: str) -> None:
    """Have the task's log mask the path of the connection's address, which is a secret with webhooks as Slack's."""
    from airflow.sdk import BaseHook
    from airflow.sdk.log import mask_secret

    path = urlsplit(BaseHook.get_connection(connection).host or "").path
    if len(path) > 1:
        mask_secret(path)


def _message(context: Mapping[str, Any]) -> Message:
    from inpaint_ops.errors import InpaintOpsError, ObjectNotFoundError
    from inpaint_ops.records import RunSummary
    from inpaint_ops.runs import read_refusal
    from inpaint_ops.storage.stored import SUMMARY_BYTES, read_model
    from inpaint_ops_airflow.workspace import open_workspace, run_name

    run = run_name(context["params"], context["run_id"])
    dag_run = f"{_pages()}/dag-runs/{quote(context['dag'].dag_id, safe='')}/{quote(context['run_id'], safe='')}"
    workspace = open_workspace()
    planned = context["ti"].xcom_pull(task_ids="plan") is not None
    if not planned:
        refused = None
        try:
            refused = read_refusal(workspace, run)
        except InpaintOpsError as error:
            log.warning("why the job was refused cannot be read: %s", error)
        text = (
            f"{refused.message} {refused.cure}"
            if refused
            else "Nothing was planned: the log of the task plan says why."
        )
        return Message(run, "REFUSED", text, dag_run)
    try:
        summary = read_model(workspace.storage, workspace.layout(run).summary, RunSummary, max_bytes=SUMMARY_BYTES)
    except ObjectNotFoundError:
        return Message(run, "INVALID", "It has no report: the log of the task report says why.", dag_run)
    return Message(run, summary.verdict, _counts(summary), dag_run, tuple(_pictures(workspace, run)))


def _counts(summary: RunSummary) -> str:
    counts = summary.counts
    parts = [
        f"{counts.done:,} of {counts.rows:,} rows done",
        f"{counts.failed:,} failed",
        f"{counts.rejected:,} rejected",
    ]
    if summary.flagged:
        parts.append(f"{summary.flagged:,} to look at")
    if summary.gpu_seconds is not None:
        parts.append(f"{summary.gpu_seconds / 3600:,.3g} GPU-hours")
    if summary.cost is not None:
        parts.append(f"cost {summary.cost:,.2f}")
    return ", ".join(parts) + "." + "".join(f" {one}" for one in summary.reasons[:3])


def _pages() -> str:
    """Where the pages lie: `[api] base_url`, which people open."""
    from airflow.configuration import conf

    return conf.get("api", "base_url", fallback="").rstrip("/") + "/inpaint"


def _pictures(workspace: Workspace, run: str) -> Iterable[Picture]:
    """Some of the results, spread over the first rows."""
    from inpaint_ops.errors import StorageError

    try:
        head = workspace.storage.get(workspace.layout(run).results, byte_range=(0, _HEAD_BYTES - 1))
    except StorageError:
        return
    done = []
    for line in head.splitlines():
        try:
            record = json.loads(line)
            if record["status"] == "done":
                done.append((int(record["row"]), str(record["id"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # cut off here
    count = min(PICTURES, len(done))
    for row, name in (done[(2 * part + 1) * len(done) // (2 * count)] for part in range(count)):
        there = f"{_pages()}/api/runs/{quote(run, safe='')}/rows/{row}/pictures/result?size=256"
        yield Picture(name, there)
