"""What is sent when a run is over: by a real webhook and a real mail server, with nothing secret in the log."""

from __future__ import annotations

import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from inpaint_ops.config import Settings
from inpaint_ops.errors import ManifestError
from inpaint_ops.runs import Workspace, keep_refusal, refusal
from inpaint_ops_airflow.notifying import notify, targets
from tests.support.synthetic_run import put_finished_run
from tests.support.webhook import SECRET, Webhook

PAGE = "https://airflow.example.org/here"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("INPAINT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", PAGE)
    found = Workspace.open(Settings(scratch=tmp_path / "scratch"))
    put_finished_run(found, "night", 30, failed={7}, rejected=1)
    return found


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with Webhook() as found:
        connection = {"conn_type": "http", "host": found.url}
        monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps(connection))
        monkeypatch.setenv("INPAINT_NOTIFY", "webhook:hook")
        yield found


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the module logs. A handler of its own: Airflow's first import replaces those of the root logger."""
    found: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, kept = logging.getLogger("inpaint_ops_airflow.notifying"), Kept()
    logger.addHandler(kept)
    yield found
    logger.removeHandler(kept)


def over(run: str = "night", *, planned: bool = True) -> dict[str, Any]:
    """What Airflow hands to a callback of the task `report`."""
    pulled = ["00000"] if planned else None
    return {
        "params": {"run": run, "manifest": "s3://x/{{ 7**37 }}.jsonl"}, "run_id": "manual__1+0",
        "dag": DAG("inpaint_manifest"), "ti": SimpleNamespace(xcom_pull=lambda **_: pulled),
    }  # fmt: skip


def test_nothing_is_sent_unless_it_is_asked_for(workspace: Workspace, webhook: Webhook, monkeypatch: Any) -> None:
    for value in ("", "  "):
        monkeypatch.setenv("INPAINT_NOTIFY", value)
        notify(over())
    monkeypatch.delenv("INPAINT_NOTIFY")
    notify(over())
    assert webhook.received == []


def test_a_webhook_gets_the_verdict_the_page_and_five_pictures(workspace: Workspace, webhook: Webhook) -> None:
    notify(over())
    (sent,) = webhook.received
    assert (sent["run"], sent["verdict"]) == ("night", "VALID")
    assert sent["text"].startswith("28 of 30 rows done, 1 failed, 1 rejected")
    assert sent["page"] == f"{PAGE}/inpaint/dag-runs/inpaint_manifest/manual__1%2B0"
    rows = [one["url"].removeprefix(f"{PAGE}/inpaint/api/runs/night/rows/") for one in sent["pictures"]]
    assert len(rows) == 5
    assert all(row.endswith("/pictures/result?size=256") for row in rows)
    numbers = [int(row.partition("/")[0]) for row in rows]
    assert numbers == sorted(set(numbers))
    assert 7 not in numbers, "it has no image"


def test_a_slack_webhook_gets_text_alone(workspace: Workspace, webhook: Webhook, monkeypatch: Any) -> None:
    monkeypatch.setenv("INPAINT_NOTIFY", "slack:hook")
    notify(over())
    (sent,) = webhook.received
    assert set(sent) == {"text", "path"}
    assert sent["text"].startswith("Inpainting night: VALID\n28 of 30 rows done")


def test_a_refused_job_is_told_with_its_cure(workspace: Workspace, webhook: Webhook) -> None:
    keep_refusal(workspace, refusal(ManifestError("{{ 7*7 }} is no manifest"), run="odd", manifest="s3://x/odd"))
    notify(over("odd", planned=False))
    (sent,) = webhook.received
    assert sent["verdict"] == "REFUSED"
    assert sent["text"].startswith("{{ 7*7 }} is no manifest Correct the manifest"), "no text is a template"


def test_a_manifests_name_calls_no_channel_and_adds_no_header(
    workspace: Workspace, webhook: Webhook, monkeypatch: Any
) -> None:
    odd = "x\nBcc: all@example.org <!channel>"
    monkeypatch.setenv("INPAINT_NOTIFY", "slack:hook")
    notify(over(odd, planned=False))
    (sent,) = webhook.received
    assert sent["text"].startswith("Inpainting x Bcc: all@example.org &lt;!channel&gt;: REFUSED\n")


@pytest.mark.parametrize("kind", ["webhook", "slack"])
def test_a_failure_is_logged_without_the_address_and_raises_nothing(
    workspace: Workspace, webhook: Webhook, monkeypatch: Any, lines: list[str], kind: str
) -> None:
    monkeypatch.setenv("INPAINT_NOTIFY", f"{kind}:hook, {kind}:unknown, mail:hook, {kind}:closed")
    closed = {"conn_type": "http", "host": f"http://127.0.0.1:9/{SECRET}"}
    monkeypatch.setenv("AIRFLOW_CONN_CLOSED", json.dumps(closed))
    webhook.refused.append("night")
    notify(over())
    assert [line.partition(" failed: ")[0] for line in lines] == [
        f"notification by {one}" for one in (f"{kind}:hook", f"{kind}:unknown", "mail:hook", f"{kind}:closed")
    ]
    assert "500" in lines[0]
    assert SECRET not in "\n".join(lines)


def test_a_target_that_is_none_is_left_out_and_an_address_in_its_place_is_not_logged(
    lines: list[str],
) -> None:
    found = list(targets({"INPAINT_NOTIFY": f"webhook:a,, teams:b,https://hooks.example/{SECRET}, mail: ,slack:c"}))
    assert found == [("webhook", "a"), ("slack", "c")]
    assert len(lines) == 3
    assert SECRET not in "".join(lines)


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs to hand over one message."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                body = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.received.append(body)  # type: ignore[attr-defined]
            elif word == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 fine\r\n")


@contextmanager
def mail_server() -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail) as server:
        server.received = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_mail_is_html_in_which_the_users_texts_are_text(workspace: Workspace, monkeypatch: Any) -> None:
    keep_refusal(workspace, refusal(ManifestError("<b>{{ 7*7 }}</b>"), run="odd", manifest="s3://x/odd"))
    with mail_server() as server:
        extra = {"from_email": "inpaint@example.org", "disable_ssl": True, "disable_tls": True, "retry_limit": 1}
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.server_address[1], "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_POST", json.dumps(connection))
        monkeypatch.setenv("INPAINT_NOTIFY", "mail:post")
        monkeypatch.setenv("INPAINT_NOTIFY_MAIL_TO", "studio@example.org, ops@example.org")
        notify(over("odd", planned=False))
    (sent,) = [message_from_bytes(one, policy=policy.default) for one in server.received]
    assert sent["Subject"] == "Inpainting odd: REFUSED"
    assert sent["To"] == "studio@example.org, ops@example.org"
    body = sent.get_body(("html",)).get_content()
    assert "&lt;b&gt;{{ 7*7 }}&lt;/b&gt;" in body
    assert f'<a href="{PAGE}/inpaint/dag-runs/inpaint_manifest/manual__1%2B0">' in body
