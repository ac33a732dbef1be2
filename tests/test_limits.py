"""Each limit is kept before its cost is paid, by one line that says which setting it is."""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from demo.object_store import ObjectStoreServer
from inpaint_ops.cli import main
from inpaint_ops.config import Settings
from inpaint_ops.errors import ImageError, InpaintOpsError, ManifestError, ShardTimeoutError, StorageUnavailableError
from inpaint_ops.images import decode_mask, decode_source
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import ManifestLimits, formats, read_manifest
from inpaint_ops.records import RunSummary
from inpaint_ops.runs import Workspace, finish
from inpaint_ops.storage import Storage
from inpaint_ops.storage.s3_client import make_s3_client
from inpaint_ops.supervisor import ShardRun
from tests.support.bench import SCRIPT, Bench
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.waiting import PATIENCE


def one_line(error: InpaintOpsError | str, setting: str) -> None:
    assert setting in str(error)
    assert "\n" not in str(error)


# -- pixels -------------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends where its pixels would begin."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\1\0IDAT"


def test_pixels_are_counted_from_the_header() -> None:
    """There is nothing behind the header: whoever went on to decode would say that it is cut off."""
    bomb = png_header(60_000, 60_000)
    with pytest.raises(ImageError, match=r"image .* is 60000x60000, more than the limit of 1000000 pixels") as caught:
        decode_source(bomb, max_pixels=10**6)
    one_line(caught.value, "INPAINT_MAX_PIXELS")
    with pytest.raises(ImageError, match=r"mask .* is 60000x60000") as caught:
        decode_mask(bomb, size=(60_000, 60_000), max_pixels=10**6)
    one_line(caught.value, "INPAINT_MAX_PIXELS")
    with pytest.raises(ImageError) as caught:
        decode_source(png_header(8, 8), max_pixels=10**6)
    assert "INPAINT_MAX_PIXELS" not in str(caught.value)


# -- bytes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bodiless(object_store: ObjectStoreServer, proxy: FaultProxy) -> Callable[..., object]:
    """An S3 client whose reads get headers and the first byte of a body: to wait for the rest of it fails, after so
    many seconds.
    """
    proxy.on(Fault.TRICKLE, path="too-large", times=1000, seconds=3600)

    def client(read_timeout: float = PATIENCE) -> object:
        return make_s3_client(object_store.session(), endpoint_url=proxy.url, attempts=1, read_timeout=read_timeout)

    return client


def test_an_images_size_is_refused_before_its_body_comes(
    tmp_path: Path, bodiless: Callable[..., object], proxy: FaultProxy, s3_prefix: Location
) -> None:
    bench = Bench(
        tmp_path, ["ok", "ok"], store=s3_prefix.uri, s3_client=bodiless, max_image_bytes=1000, storage_tries=1
    )
    image = s3_prefix.join("too-large.png")
    bench.workspace.storage.put(image, b"x" * 1001)
    run = bench.shard_run(final_attempt=True)
    run.rows = [run.rows[0], run.rows[1].model_copy(update={"image": image.uri})]
    run.run()
    error = bench.records()[2].error
    assert error is not None
    assert (error.type, error.stage, error.permanent) == ("ObjectTooLargeError", "download", True)
    assert error.message.startswith(f"image: {image} is too large: 1,001 bytes, and the limit is 1,000")
    one_line(error.message, "INPAINT_MAX_IMAGE_BYTES")
    assert proxy.count("GET", "too-large") == 1
    assert bench.painted() == [1], "no worker saw it"
    with pytest.raises(StorageUnavailableError):
        Storage(readable=[s3_prefix], s3_client=lambda: bodiless(1.0), attempts=1).get(image)  # type: ignore[arg-type]


def test_a_manifests_size_is_refused_before_its_body_comes(
    bodiless: Callable[..., object], proxy: FaultProxy, s3_prefix: Location
) -> None:
    settings = Settings(max_manifest_bytes=1000, storage_tries=1)
    workspace = Workspace.open(settings, store=s3_prefix.uri, s3_client=bodiless)
    manifest = s3_prefix.join("too-large.jsonl")
    workspace.storage.put(manifest, b" " * 1001)
    with pytest.raises(
        ManifestError, match=r"too-large.jsonl is too large: 1,001 bytes, and the limit is 1,000"
    ) as caught:
        workspace.read_manifest(manifest.uri)
    one_line(caught.value, "INPAINT_MAX_MANIFEST_BYTES")
    assert caught.value.exit_code == 2


# -- rows and their fields ----------------------------------------------------------------------------------------

ROW = {"image": "a.png", "mask": "a.png", "prompt": "x"}


def read(name: str, data: bytes, **limits: int) -> object:
    return read_manifest(
        data, location=parse(f"/in/{name}"), is_allowed=lambda _: True, limits=ManifestLimits(**limits)
    )


def test_a_row_too_many_ends_the_reading_of_a_csv() -> None:
    """What comes after it would be an error of its own."""
    rows = b"image,mask,prompt\n" + b"a.png,a.png,x\n" * 3
    broken = b'a.png,a.png,"never closed\n'
    with pytest.raises(ManifestError, match=r"m.csv: more than 2 rows") as caught:
        read("m.csv", rows + broken, max_rows=2)
    one_line(caught.value, "INPAINT_MAX_ROWS")
    with pytest.raises(ManifestError, match="cannot be parsed"):
        read("m.csv", rows + broken, max_rows=4)


def test_a_row_too_many_ends_the_reading_of_a_jsonl(monkeypatch: pytest.MonkeyPatch) -> None:
    read_lines: list[str] = []
    load = formats.load_json

    def counted(text: str, *more: str) -> Any:
        read_lines.append(text)
        return load(text, *more)

    monkeypatch.setattr(formats, "load_json", counted)
    with pytest.raises(ManifestError, match=r"m.jsonl: more than 2 rows") as caught:
        read("m.jsonl", (json.dumps(ROW) + "\n").encode() * 1000, max_rows=2)
    one_line(caught.value, "INPAINT_MAX_ROWS")
    assert len(read_lines) == 3


def test_the_rows_of_a_parquet_are_counted_from_its_footer() -> None:
    """Its columns are damaged: whoever went on to read them would say so."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([ROW] * 3000), sink, compression="none", use_dictionary=False)
    data = bytearray(sink.getvalue().to_pybytes())
    data[4:400] = b"\xff" * 396
    with pytest.raises(ManifestError, match=r"m.parquet: more than 2999 rows") as caught:
        read("m.parquet", bytes(data), max_rows=2999)
    one_line(caught.value, "INPAINT_MAX_ROWS")
    with pytest.raises(ManifestError, match="not a readable Parquet"):
        read("m.parquet", bytes(data), max_rows=3000)


@pytest.mark.parametrize(
    ("row", "limits", "said"),
    [
        (
            {"prompt": "x" * 11},
            {"max_prompt_chars": 10},
            "prompt: longer than 10 characters (INPAINT_MAX_PROMPT_CHARS)",
        ),
        (
            {"negative_prompt": "x" * 11},
            {"max_prompt_chars": 10},
            "negative_prompt: longer than 10 characters (INPAINT_MAX_PROMPT_CHARS)",
        ),
        ({"prompt": "x" * 200}, {"max_row_bytes": 100}, "longer than 100 bytes (INPAINT_MAX_ROW_BYTES)"),
    ],
)
def test_a_text_that_is_too_long_rejects_its_row_when_the_run_is_planned(
    row: dict[str, str], limits: dict[str, int], said: str
) -> None:
    lines = [ROW, ROW | row]
    parsed = read("m.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode(), **limits)
    assert [one.row for one in parsed.accepted] == [1]  # type: ignore[attr-defined]
    [rejected] = parsed.rejected  # type: ignore[attr-defined]
    assert rejected.error.message == f"row 2: {said}"


def test_the_settings_reach_the_reader_of_manifests(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps(ROW | {"prompt": "x" * 50}) + "\n")

    def reason(**settings: int) -> str:
        workspace = Workspace.open(Settings(**settings), store=str(tmp_path))  # type: ignore[arg-type]
        return workspace.read_manifest(str(tmp_path / "m.jsonl"))[0].rejected[0].error.message

    assert "INPAINT_MAX_PROMPT_CHARS" in reason(max_prompt_chars=49)
    assert "INPAINT_MAX_ROW_BYTES" in reason(max_row_bytes=60)


# -- tries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.TRUNCATE])
def test_the_store_is_asked_as_often_as_the_setting_says(
    aws_environment: ObjectStoreServer,
    proxy: FaultProxy,
    s3_prefix: Location,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    where = s3_prefix.join("input.png")
    Storage(writable=[s3_prefix]).put(where, b"pixels" * 100)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.on(fault, path="input.png", times=1000)
    workspace = Workspace.open(Settings(storage_tries=2), store=s3_prefix.uri)
    with pytest.raises(StorageUnavailableError):
        workspace.storage.get(where)
    assert proxy.count("GET", "input.png") == 2


def test_workers_that_keep_dying_stop_the_try_as_the_setting_says(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"], model="dies-at-once", worker_deaths=2)
    with pytest.raises(InpaintOpsError, match="2 workers in a row") as caught:
        bench.shard_run().run()
    one_line(caught.value, "INPAINT_WORKER_DEATHS")
    assert len([note for note in bench.notes() if "started" in note]) == 2


Shell = Callable[..., tuple[Result, RunSummary]]


@pytest.fixture
def pauses() -> list[float]:
    """Seconds that the command line would have waited between tries."""
    return []


@pytest.fixture
def shell(tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """`inpaint-ops run` of one row with a scripted worker, by what `INPAINT_*` say; and the summary that it left."""
    import signal

    (tmp_path / "a.png").write_bytes(b"pixels")
    (tmp_path / "m.jsonl").write_text(json.dumps(ROW) + "\n")
    command = (sys.executable, str(SCRIPT), "--journal", str(tmp_path / "journal"))
    monkeypatch.setattr("inpaint_ops.supervisor.starting.WORKER_COMMAND", command)
    monkeypatch.setenv("INPAINT_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(
        "inpaint_ops.runs.painting.ShardQueue._is_stopped_within", lambda queue, seconds: pauses.append(seconds)
    )
    # Its models are roles of the scripted worker, which planning would look for in the hub.
    monkeypatch.setattr("inpaint_ops.runs.preparing.check_models", lambda *_, **__: [])

    def run(model: str, **settings: str) -> tuple[Result, RunSummary]:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        out = tmp_path / "out"
        done = CliRunner().invoke(main, ["run", str(tmp_path / "m.jsonl"), "--out", str(out), "--model", model])
        return done, RunSummary.model_validate_json((out / "runs/m/run.json").read_bytes())

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_shard_is_tried_as_often_as_the_setting_says_and_what_was_lost_is_reported(
    shell: Shell, tmp_path: Path, pauses: list[float]
) -> None:
    done, summary = shell("dies-at-once", INPAINT_TRIES="3", INPAINT_WORKER_DEATHS="1", INPAINT_RETRY_SECONDS="5")
    basis, *lines = [line for line in done.stderr.splitlines() if line.startswith("inpaint-ops: ")]
    assert "rows per shard" in basis
    assert len(lines) == 3
    assert lines[0].endswith("(try 1 of 3, INPAINT_TRIES)")
    assert pauses == [5, 10], "a store or a card that is away has time to come back"
    one_line(lines[2], "1 worker in a row ended")
    assert done.exit_code == 1
    assert summary.verdict == "INVALID"
    assert any("shard 00000 is unfinished: WorkerDiedError" in reason for reason in summary.reasons)
    assert (tmp_path / "out/runs/m/report.html").exists()


# -- time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", [False, True])
def test_at_the_time_limit_the_worker_is_dead_and_rows_without_a_record_wait(tmp_path: Path, final: bool) -> None:
    bench = Bench(tmp_path, ["hang", "hang"], shard_timeout=1.0)
    with pytest.raises(ShardTimeoutError, match="2 rows were not done within 1 s") as caught:
        bench.shard_run(final_attempt=final).run()
    one_line(caught.value, "INPAINT_SHARD_TIMEOUT")
    assert not caught.value.permanent, "another try does only what is left"
    assert bench.records() == {}, "rows that nobody got to have not failed, on the last try either"
    bench.assert_nothing_left()
    lost = finish(bench.workspace, "run")
    assert lost.verdict == "INVALID"
    assert any("shard 00000 is unfinished: ShardTimeoutError" in reason for reason in lost.reasons)

    again = bench.shard_run()
    again.rows = [row.model_copy(update={"prompt": "ok"}) for row in again.rows]
    again.settings = Settings(scratch=tmp_path / "scratch")
    again.run()
    found = finish(bench.workspace, "run")
    assert (found.verdict, [fault.kind for fault in found.faults]) == ("VALID", ["try_stopped"])


class TimeIsUp(Storage):
    """Storage after whose first record the attempt's time is up, however slow this machine is."""

    work: ShardRun

    def put(self, where: Any, data: Any, **options: Any) -> Any:
        result = super().put(where, data, **options)
        if str(where).endswith("/0000001.json"):
            self.work.settings = Settings(scratch=self.work.settings.scratch, shard_timeout=1e-3)
        return result


def test_at_the_time_limit_what_is_done_stays_done(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok", "hang", "ok"], transfer_threads=1)
    storage = TimeIsUp(readable=[str(tmp_path / "in")], writable=[bench.workspace.store])
    storage.work = bench.shard_run(storage=storage)
    with pytest.raises(ShardTimeoutError):
        storage.work.run()
    assert bench.statuses()[:1] == ["done"]
    assert 2 not in bench.records()


def test_the_shell_stops_at_the_time_limit_and_reports_it(shell: Shell, tmp_path: Path) -> None:
    done, summary = shell("hangs-while-loading", INPAINT_SHARD_TIMEOUT="0.5", INPAINT_TRIES="2")
    basis, *lines = [line for line in done.stderr.splitlines() if line.startswith("inpaint-ops: ")]
    assert "rows per shard" in basis
    assert len(lines) == 2
    one_line(lines[1], "INPAINT_SHARD_TIMEOUT")
    assert done.exit_code == 1
    assert any("ShardTimeoutError: shard 00000: 1 row was not done" in reason for reason in summary.reasons)
    assert not running(str(tmp_path / "journal")), "the workers are dead"


def running(argument: str) -> list[Path]:
    """Processes that were started with this argument."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if argument.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(process)
    return found
