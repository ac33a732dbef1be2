"""The main job from a shell: real storage, a real worker process, every kind of source and every kind of bad row."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from demo.object_store import ObjectStoreServer
from inpaint_ops.config import Settings
from inpaint_ops.images import decode_mask, decode_source
from inpaint_ops.manifest import read_manifest
from inpaint_ops.records import Record, RunSummary
from inpaint_ops.runs import Workspace
from inpaint_ops.storage.s3_client import make_s3_client

PIXELS = 10**7
RANDOM = np.random.default_rng(5)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, *channels: int, high: int = 256, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return RANDOM.integers(0, high, (height, width, *channels)).astype(dtype)


def mask_of(width: int, height: int, *, value: int = 255) -> bytes:
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = value
    return encoded(Image.fromarray(mask))


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(noise(40, 60, 3)), "JPEG", exif=exif, quality=95)


def palette() -> bytes:
    return encoded(Image.fromarray(noise(48, 48, 3)).quantize(32))


def sixteen_bit_rgb() -> bytes:
    import cv2

    ok, data = cv2.imencode(".png", noise(40, 56, 3, high=65536, dtype=np.uint16))
    assert ok
    return data.tobytes()


# name: (image, mask, further wishes)
GOOD: dict[str, tuple[bytes, bytes, dict[str, Any]]] = {
    "rgb": (encoded(Image.fromarray(noise(64, 96, 3))), mask_of(96, 64), {"id": "rgb", "seed": 1, "mask_blur": 3.0}),
    "exif": (rotated_jpeg(), mask_of(40, 60), {"mask_dilate": 2}),
    "rgba": (encoded(Image.fromarray(noise(50, 50, 4))), mask_of(50, 50), {"format": "webp"}),
    "gray": (encoded(Image.fromarray(noise(50, 70))), mask_of(70, 50), {"format": "tiff"}),
    "palette": (palette(), mask_of(48, 48), {"crop": 4}),
    "gray16": (encoded(Image.fromarray(noise(44, 44, high=65536, dtype=np.uint16))), mask_of(44, 44), {}),
    "rgb16": (sixteen_bit_rgb(), mask_of(56, 40), {"mask_invert": True}),
    "ünïcode photo": (encoded(Image.fromarray(noise(64, 64, 3))), mask_of(64, 64), {"guidance_scale": 1.0}),
}
WHOLE = GOOD["rgb"][0]
HUGE = encoded(Image.new("L", (4000, 4000)))
# name: (image, mask, the row, status, error type, words)
BAD: dict[str, tuple[bytes | None, bytes, dict[str, Any], str, str, str]] = {
    "truncated": (WHOLE[: len(WHOLE) // 2], mask_of(96, 64), {}, "failed", "ImageError", ""),
    "text": (b"this is no image", mask_of(96, 64), {}, "failed", "ImageError", ""),
    "empty": (b"", mask_of(96, 64), {}, "failed", "ImageError", ""),
    "oversized": (HUGE, mask_of(10, 10), {}, "failed", "ImageError", "INPAINT_MAX_PIXELS"),
    "othersize": (WHOLE, mask_of(64, 96), {}, "failed", "MaskError", "96"),
    "blackmask": (WHOLE, mask_of(96, 64, value=0), {}, "failed", "MaskError", ""),
    "missing": (None, mask_of(96, 64), {}, "failed", "ObjectNotFoundError", "there is no object"),
    "typo": (WHOLE, mask_of(96, 64), {"promt": "x"}, "rejected", "RowError", "did you mean 'prompt'"),
    "twice": (WHOLE, mask_of(96, 64), {"id": "rgb"}, "rejected", "RowError", "already that of row 1"),
    "climbs": (WHOLE, mask_of(96, 64), {"image": "../../etc/passwd"}, "rejected", "RowError", "plain key"),
    "elsewhere": (WHOLE, mask_of(96, 64), {"image": "s3://another/a.png"}, "rejected", "RowError", "ALLOWED_PREFIXES"),
}  # fmt: skip


@dataclass
class Night:
    """A finished run and how its command ended."""

    workspace: Workspace
    environment: dict[str, str]
    manifest: str
    out: str
    watched: Path
    done: subprocess.CompletedProcess[str]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "inpaint_ops.cli", *arguments],
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def objects(self, prefix: str = "") -> dict[str, str]:
        root = self.workspace.layout("night").root
        found = self.workspace.storage.list(root)
        return {
            key: info.etag for info in found if (key := info.location.key.removeprefix(root.key)).startswith(prefix)
        }

    def get(self, key: str) -> bytes:
        return self.workspace.storage.get(self.workspace.layout("night").root.join(key))

    def records(self) -> dict[int, Record]:
        found = [Record.model_validate_json(self.get(key)) for key in self.objects("records/")]
        assert len({record.row for record in found}) == len(found)
        return {record.row: record for record in found}

    def record(self, name: str) -> Record:
        return self.records()[[*GOOD, *BAD].index(name) + 1]


CANARY = "canary-3f9a-secret"

WATCH = """
# Imported by every interpreter of the run: in a worker, note its environment and refuse every connection.
import json, os, pathlib, socket, sys
if "inpaint_ops.worker" in sys.orig_argv:
    folder = pathlib.Path(__file__).parent
    (folder / f"{os.getpid()}.environ").write_text(json.dumps(dict(os.environ)))
    def refuse(self, address):
        (folder / f"{os.getpid()}.connect").write_text(repr(address))
        raise OSError("this worker has no network")
    socket.socket.connect = socket.socket.connect_ex = refuse
"""


@pytest.fixture(scope="module")
def night(object_store: ObjectStoreServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    client = make_s3_client(object_store.session(), endpoint_url=object_store.endpoint)
    root = "s3://inpaint/end-to-end/"
    settings = Settings(max_pixels=PIXELS)
    workspace = Workspace.open(settings, store=root, s3_client=lambda: client)
    rows = []
    sources: dict[str, tuple[bytes | None, bytes, dict[str, Any]]] = {**GOOD}
    sources |= {name: entry[:3] for name, entry in BAD.items()}
    for name, (image, mask, wishes) in sources.items():
        if image is not None:
            workspace.storage.put(f"{root}in/photos/{name}.img", image)
        workspace.storage.put(f"{root}in/masks/{name}.png", mask)
        row = {"image": f"photos/{name}.img", "mask": f"masks/{name}.png", "prompt": f"a {name}", **wishes}
        rows.append(row if "promt" not in row else {key: value for key, value in row.items() if key != "prompt"})
    manifest = f"{root}in/night.jsonl"
    workspace.storage.put(manifest, "".join(json.dumps(row) + "\n" for row in rows).encode())
    cache = tmp_path_factory.mktemp("cache")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "INPAINT_"))} | object_store.env
    environment |= {"HF_HOME": str(cache), "INPAINT_MAX_PIXELS": str(PIXELS), "HF_TOKEN": CANARY}
    environment |= {"INPAINT_SCRATCH": str(cache / "scratch"), "TMPDIR": str(cache)}
    watched = tmp_path_factory.mktemp("watched")
    (watched / "sitecustomize.py").write_text(WATCH)
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, (str(watched), os.environ.get("PYTHONPATH"))))}
    run = Night(workspace, environment, manifest, root, watched, subprocess.CompletedProcess([], 0))
    options = ("--out", root, "--model", "tiny-random", "--steps", "2", "--failure-threshold", "0.9", "--run", "night")
    run.done = run.command("-v", "run", manifest, *options, "--batch-size", "2")
    yield run


def test_the_command_ends_with_3_where_rows_failed_and_says_what_to_look_at(night: Night) -> None:
    assert night.done.returncode == 3, night.done.stderr
    assert f"{len(GOOD)} done, 7 failed, 4 rejected of {len(GOOD) + len(BAD)}" in night.done.stdout
    assert "random" in night.done.stdout
    assert "report.html" in night.done.stdout


def test_every_row_ends_once(night: Night) -> None:
    records = night.records()
    assert sorted(records) == list(range(1, len(GOOD) + len(BAD) + 1))
    assert [records[row].status for row in range(1, len(GOOD) + 1)] == ["done"] * len(GOOD)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_gets_one_clear_line(night: Night, name: str) -> None:
    _, _, _, status, kind, words = BAD[name]
    record = night.record(name)
    assert record.error is not None
    assert (record.status, record.error.type, record.error.permanent) == (status, kind, True)
    assert "\n" not in record.error.message
    assert words in record.error.message


@pytest.mark.parametrize("name", GOOD)
def test_unmasked_pixels_are_the_sources_own_and_masked_ones_are_not(night: Night, name: str) -> None:
    image, mask_bytes, wishes = GOOD[name]
    output = night.record(name).output
    assert output is not None
    source = decode_source(image, max_pixels=PIXELS)
    result = decode_source(night.workspace.storage.get(output.uri), max_pixels=PIXELS)
    mask = decode_mask(
        mask_bytes,
        size=(source.width, source.height),
        max_pixels=PIXELS,
        invert=wishes.get("mask_invert", False),
        dilate=wishes.get("mask_dilate", 0),
        blur=wishes.get("mask_blur", 0.0),
    )
    assert (output.width, output.height) == (source.width, source.height)
    assert result.pixels.shape == source.pixels.shape
    assert result.pixels.dtype == source.pixels.dtype
    assert np.array_equal(result.pixels[mask == 0], source.pixels[mask == 0])
    assert not np.array_equal(result.pixels[mask > 0], source.pixels[mask > 0])


def test_what_was_converted_is_recorded(night: Night) -> None:
    assert any("EXIF" in sentence for sentence in night.record("exif").conversions)
    assert any("palette" in sentence.lower() for sentence in night.record("palette").conversions)


def test_a_record_tells_what_really_ran(night: Night) -> None:
    record = night.record("rgb")
    assert (record.seed, record.steps_requested) == (1, 2)
    assert record.steps is not None
    assert 1 <= record.steps <= 2
    for stage in ("download", "decode", "denoise", "vae_decode", "composite", "encode", "upload"):
        assert getattr(record.timings, stage) > 0, stage
    assert record.worker is not None
    assert record.memory is not None


def test_images_are_what_their_records_say(night: Night) -> None:
    for record in night.records().values():
        if record.output is not None:
            data = night.workspace.storage.get(record.output.uri)
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (record.output.sha256, record.output.bytes)


def test_a_second_run_adds_nothing(night: Night) -> None:
    before = night.objects("records/") | night.objects("images/") | night.objects("workers/")
    options = ("--out", night.out, "--model", "tiny-random", "--steps", "2", "--run", "night")
    assert night.command("run", night.manifest, *options).returncode == 3
    assert night.objects("records/") | night.objects("images/") | night.objects("workers/") == before


def test_another_manifest_or_other_choices_under_the_same_name_are_refused(night: Night) -> None:
    other = night.command("run", night.manifest, "--out", night.out, "--model", "tiny-random", "--run", "night")
    assert other.returncode == 2
    assert "started with steps = 2" in other.stderr
    night.workspace.storage.put(f"{night.out}in/other.jsonl", b'{"image": "a", "mask": "b", "prompt": "c"}\n')
    options = ("--out", night.out, "--model", "tiny-random", "--steps", "2", "--run", "night")
    another = night.command("run", f"{night.out}in/other.jsonl", *options)
    assert another.returncode == 2
    assert "another manifest" in another.stderr


def test_the_failed_rows_are_a_valid_manifest_of_just_them(night: Night) -> None:
    layout = night.workspace.layout("night")
    failed = read_manifest(
        night.get("failed.jsonl"), location=layout.failed, is_allowed=night.workspace.storage.may_read
    )
    assert not failed.rejected
    assert {row.id for row in failed.accepted} == {name for name, entry in BAD.items() if entry[3] == "failed"}


def test_the_summary_the_tables_the_trace_and_the_page_are_there(night: Night) -> None:
    summary = RunSummary.model_validate_json(night.get("run.json"))
    assert summary.verdict == "VALID"
    assert (summary.counts.done, summary.counts.failed, summary.counts.rejected) == (len(GOOD), 7, 4)
    assert summary.model is not None
    assert summary.model.random_weights
    assert summary.cold_start is not None
    assert summary.cold_start.imports > 0
    ledger = {entry.name: entry for entry in summary.ledger}
    assert [name for name, entry in ledger.items() if not entry.matches] == []
    assert (ledger["release_text_encoders"].requested, ledger["release_text_encoders"].effective) == ("on", "on")
    texts = {f"a {name}" for name in [*GOOD, *BAD] if name not in ("typo", "twice", "climbs", "elsewhere")}
    assert ledger["release_text_encoders"].measured["texts_encoded"] == len(texts) + 1, "each once, and the empty one"
    assert ledger["scheduler"].effective == "euler"
    assert summary.load is not None
    assert min(summary.load.resolve, summary.load.disk, summary.load.device, summary.load.tune) > 0
    assert sum(summary.load.model_dump(exclude={"download"}).values()) <= summary.cold_start.load
    assert pq.read_table(io.BytesIO(night.get("timings.parquet"))).num_rows == len(GOOD) + len(BAD)
    assert json.loads(night.get("trace.json"))["traceEvents"]
    assert len(night.get("results.jsonl").splitlines()) == len(GOOD) + len(BAD)
    page = night.get("report.html").decode()
    assert "random" in page
    assert "did you mean" in page


def test_the_report_can_be_rebuilt_from_the_records(night: Night) -> None:
    before = json.loads(night.get("run.json"))
    assert night.command("report", "night", "--out", night.out).returncode == 3
    assert json.loads(night.get("run.json")) == before


def test_no_secret_is_in_a_log_a_record_or_a_report(night: Night) -> None:
    secrets = (CANARY, night.environment["AWS_SECRET_ACCESS_KEY"])
    texts = [night.done.stdout, night.done.stderr]
    texts += [night.get(key).decode(errors="replace") for key in night.objects() if not key.startswith("images/")]
    for secret in secrets:
        assert not any(secret in text for text in texts)


def test_the_worker_needs_no_network_and_sees_no_credentials(night: Night) -> None:
    environments = [json.loads(path.read_text()) for path in night.watched.glob("*.environ")]
    assert environments, "a worker was watched"
    for environ in environments:
        assert not [name for name in environ if name.startswith("AWS_") and name != "AWS_EC2_METADATA_DISABLED"]
        assert CANARY not in environ.values()
    assert not list(night.watched.glob("*.connect"))


def test_validate_and_plan_tell_before_a_gpu_is_touched(night: Night) -> None:
    validated = night.command("validate", night.manifest, "--out", night.out, "--check-objects", "--json")
    assert validated.returncode == 3
    problems = json.loads(validated.stdout)["problems"]
    assert len(problems) == 5
    assert any("missing.img" in line for line in problems)
    options = ("--out", night.out, "--model", "tiny-random", "--shard-rows", "4")
    other = night.command("plan", night.manifest, *options, "--card", "a card that nobody has")
    assert "forecast: unknown: no earlier run of tiny-random" in other.stdout
    planned = night.command("plan", night.manifest, *options, "--batch-size", "2", "--json")
    assert planned.returncode == 3, planned.stderr
    body = json.loads(planned.stdout)
    assert (body["rows"], body["rejected"], len(body["shards"])) == (len(GOOD) + len(BAD), 4, 4)
    assert [line for line in body["missing_objects"] if "missing.img" in line] == body["missing_objects"] != []
    assert body["forecast"]["seconds"] > 0, "an earlier run of this model and tuning is in the store"
    assert "in this store" in body["forecast"]["basis"]


def test_a_model_that_is_not_there_is_one_line_and_exit_code_2(night: Night) -> None:
    done = night.command("run", night.manifest, "--out", night.out, "--model", "nobody/nothing", "--run", "nomodel")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()[-1]) < 400
    assert "inpaint-ops models pull" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_manifest_is_written_from_two_prefixes_and_what_has_no_partner_is_named(night: Night, tmp_path: Path) -> None:
    for name in ("images/a.png", "images/b.png", "masks/a.png", "masks/c.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    out = tmp_path / "m.jsonl"
    done = night.command(
        "manifest", str(tmp_path / "images"), str(tmp_path / "masks"), "--prompt", "a cup", "-o", str(out)
    )
    assert done.returncode == 3
    assert "image without a mask" in done.stderr
    assert "b.png" in done.stderr
    assert "mask without an image" in done.stderr
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"image": "images/a.png", "mask": "masks/a.png", "prompt": "a cup"}
    ]


def test_doctor_tells_what_is_missing(night: Night) -> None:
    done = night.command("doctor", "--out", night.out, "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    if "racing" in checks["store"]["detail"]:  # as in one race of some hundreds on SeaweedFS: docs/storage.md
        done = night.command("doctor", "--out", night.out, "--json")
        checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["store"]["state"] == "ok"
    assert checks["torch"]["state"] == "ok"
    assert checks["model"]["state"] == "missing"
    assert "inpaint-ops models pull" in checks["model"]["detail"]
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "/nowhere/m.jsonl", "--out", "{tmp}"), "there is no object"),
        (("run", "{tmp}/empty.jsonl", "--out", "{tmp}"), "has no rows"),
        (("run", "ftp://x/m.jsonl", "--out", "{tmp}"), "not supported"),
        (("run", "{tmp}/m.jsonl"), "INPAINT_STORE"),
        (("run", "{tmp}/m.jsonl", "--out", "{tmp}", "--run", "../x"), "run name"),
        (("run", "{tmp}/m.jsonl", "--out", "{tmp}", "--set", "oops"), "FIELD=VALUE"),
        (("report", "nothing", "--out", "{tmp}"), "no run 'nothing'"),
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(
    night: Night, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "m.jsonl").write_text('{"image": "a", "mask": "b", "prompt": "c"}\n')
    done = night.command(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
