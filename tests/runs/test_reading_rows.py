"""Rows read before a run fail for the same reasons, and are converted in the same ways, as when they are painted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from inpaint_ops.cli.main import main
from inpaint_ops.config import load_settings
from inpaint_ops.errors import PreviewError, StorageUnavailableError
from inpaint_ops.images import PairReading
from inpaint_ops.planning import JobOptions
from inpaint_ops.previews import Helper, Job, Limits, Pair, split_parts
from inpaint_ops.previews.helper import HOST, Whole
from inpaint_ops.previews.pool import HelperPool
from inpaint_ops.runs import Workspace
from inpaint_ops.runs.reading_rows import read_rows
from inpaint_ops.storage import Storage
from tests.support.child_processes import children
from tests.support.pictures import noise

SIZE = (48, 32)


def photo(**options: Any) -> Image.Image:
    return Image.fromarray(noise(SIZE[1], SIZE[0], 3)).convert(options.get("mode", "RGB"))


def mask(size: tuple[int, int] = SIZE, *, covers: float = 0.25, level: int = 255) -> Image.Image:
    weights = np.zeros((size[1], size[0]), np.uint8)
    weights[:, : max(1, round(size[0] * covers))] = level
    return Image.fromarray(weights)


def put(folder: Path, rows: dict[str, dict[str, Any]], **fields: Any) -> Path:
    """A manifest of rows by id: `image`, `mask` and how they are saved; other fields are the row's own."""
    lines = []
    for name, row in rows.items():
        for what, ending in (("image", row.pop("image_ending", "png")), ("mask", "png")):
            picture = row.pop(what, photo() if what == "image" else mask())
            picture.save(folder / f"{name}-{what}.{ending}", **row.pop(f"{what}_options", {}))
            row[what] = f"{name}-{what}.{ending}"
        lines.append(json.dumps({"id": name, "prompt": "x", **fields, **row}))
    (folder / "job.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder / "job.jsonl"


def validate(manifest: Path, *options: object) -> Result:
    return CliRunner().invoke(main, ["validate", str(manifest), "--model", "tiny-random", *map(str, options)])


def test_a_run_fails_and_converts_what_was_said_before_it(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    rows: dict[str, dict[str, Any]] = {
        "good": {},
        "palette": {"image": photo().quantize(16), "image_ending": "gif"},
        "turned": {"image_ending": "jpg", "image_options": {"exif": turned}, "mask": mask(SIZE[::-1])},
        "not-turned": {"image_ending": "jpg", "image_options": {"exif": turned}},
        "animated": {"image_ending": "webp", "image_options": {"save_all": True, "append_images": [photo()]}},
        "float": {"image": Image.fromarray(np.zeros((32, 48), np.float32)), "image_ending": "tiff"},
        "black": {"mask": mask(level=0)},
        "labels": {"mask": mask(level=3)},
        "of-two-levels": {"mask": mask(level=1)},
        "other-size": {"mask": mask((50, 32))},
        "half": {"mask": mask((24, 16))},
        "feathered": {"mask_blur": 3.0, "blend": "auto"},
        "inverted": {"mask_invert": True, "mask": mask(covers=1.0)},
        "cut-off": {},
    }
    manifest = put(tmp_path, rows, steps=2)
    whole = (tmp_path / "cut-off-image.png").read_bytes()
    (tmp_path / "cut-off-image.png").write_bytes(whole[:-200])
    found = json.loads(validate(manifest, "--read", "all", "--json").stdout)
    command = [sys.executable, "-m", "inpaint_ops.cli", "run", str(manifest), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--model", "tiny-random"], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    records = [json.loads(line) for line in (tmp_path / "out/runs/job/results.jsonl").read_text().splitlines()]
    failed = [f"row {one['row']}: {one['error']['message']}" for one in records if one["status"] == "failed"]
    assert found["problems"] == failed and len(failed) == 7
    seen = {text for one in records if one["status"] == "done" for text in one["conversions"]}
    kinds = {text.partition(": ")[2] for text in found["warnings"] if text.startswith(("1 row: ", "2 rows: "))}
    assert kinds and kinds <= seen
    assert f"14 of 14 rows read: {14 - len(failed)} can be painted, " in " ".join(found["warnings"])


def test_some_rows_are_read_spread_over_all(tmp_path: Path) -> None:
    rows = {f"row-{number}": ({"mask": mask(level=0)} if number % 2 else {}) for number in range(10)}
    manifest = put(tmp_path, rows)
    done = validate(manifest, "--read", 5)
    assert done.exit_code == 3
    assert [line for line in done.stdout.splitlines() if line.startswith("row ")] == [
        f"row {number}: the mask masks nothing, every pixel of it is black: paint what to replace in white"
        for number in (2, 4, 6, 8, 10)
    ]
    assert "note: 5 of 10 rows read: 0 can be painted, 0 of them converted; 5 would fail" in done.stdout
    assert done.stdout.splitlines()[-1] == "10 rows: 10 accepted, 0 rejected, 0 objects missing, 5 would fail"
    assert validate(manifest).exit_code == 0, "files are read where that is asked for"
    for wrong in ("0", "-1", "some"):
        assert validate(manifest, "--read", wrong).exit_code == 2


def test_a_file_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    manifest = put(tmp_path, {"a": {}, "b": {}, "c": {}})
    (tmp_path / "b-mask.png").unlink()
    done = validate(manifest, "--read", "all")
    assert done.stdout.count("b-mask.png") == 1
    assert done.stdout.splitlines()[-1] == "3 rows: 3 accepted, 0 rejected, 1 objects missing"


def test_masks_the_wrong_way_round_are_a_note(tmp_path: Path) -> None:
    manifest = put(tmp_path, {f"row-{number}": {"mask": mask(covers=0.9)} for number in range(5)})
    done = validate(manifest, "--read", "all")
    assert done.exit_code == 0
    assert "note: In 5 of 5 images the mask covers more than half of the picture." in done.stdout
    turned = put(tmp_path, {f"row-{number}": {"mask": mask(covers=0.9), "mask_invert": True} for number in range(5)})
    assert "mask_invert" not in validate(turned, "--read", "all").stdout


def test_settings_that_readers_obey_hold_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = put(tmp_path, {"half": {"mask": mask((24, 16))}})
    assert validate(manifest, "--read", 1).exit_code == 3
    monkeypatch.setenv("INPAINT_MASK_RESIZE", "nearest")
    assert validate(manifest, "--read", 1).exit_code == 0
    monkeypatch.setenv("INPAINT_MAX_PIXELS", "100")
    assert "INPAINT_MAX_PIXELS" in validate(manifest, "--read", 1).stdout


def test_a_store_that_does_not_answer_says_nothing_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.open(load_settings(), store=str(tmp_path))
    parsed, _ = workspace.read_manifest(str(put(tmp_path, {"a": {}, "b": {}})))
    stat = Storage.stat

    def refuse(storage: Storage, where: Any) -> Any:
        if "b-image" in str(where):
            raise StorageUnavailableError("nobody there")
        return stat(storage, where)

    monkeypatch.setattr(Storage, "stat", refuse)
    found = read_rows(workspace.storage, workspace.settings, JobOptions(model="tiny-random"), parsed.accepted)
    assert (found.rows, found.readable, found.problems) == (2, 1, [])
    assert found.not_read == ["row 2: image: nobody there"]
    assert "1 row could not be read here: row 2: image: nobody there" in found.notes(2)


def test_what_only_a_helpers_limits_keep_from_being_read_says_nothing_of_the_row(tmp_path: Path) -> None:
    workspace = Workspace.open(load_settings(), store=str(tmp_path))
    large = {"image": Image.new("RGB", (3000, 2000)), "mask": mask((3000, 2000))}
    parsed, _ = workspace.read_manifest(str(put(tmp_path, {"a": large})))
    job = JobOptions(model="tiny-random")
    found = read_rows(workspace.storage, workspace.settings, job, parsed.accepted, limits=Limits(memory_bytes=2**20))
    assert (found.rows, found.readable, found.problems) == (1, 0, [])
    assert len(found.not_read) == 1 and found.not_read[0].startswith("row 1: ")


def test_a_helper_pool_reads_a_few_ahead_and_ends_its_hosts() -> None:
    taken: list[int] = []

    def things() -> Any:
        for number in range(100):
            taken.append(number)
            yield number

    def make(helper: Helper, number: int) -> int:
        with pytest.raises(PreviewError):
            helper.make(Job("picture", 8, 100), [Whole(b"no picture")])
        return number

    before = {one.pid for one in children(HOST)}  # of pages that other tests have shown
    with HelperPool(2) as helpers:
        made = helpers.map(make, things())
        assert [next(made) for _ in range(3)] == [0, 1, 2]
        assert len(taken) < 20
        hosts = [psutil.Process(one.pid) for one in children(HOST) if one.pid not in before]
        assert 1 <= len(hosts) <= 2
    assert not any(host.is_running() and host.status() != psutil.STATUS_ZOMBIE for host in hosts)


@pytest.mark.parametrize(
    "said",
    [
        "", "[]", "{}", "[" * 50_000, {"size": [1]}, {"size": [0, 1]}, {"mask_share": 2.0}, {"mask_share": math.nan},
        {"conversions": [1]}, {"conversions": "x"},
    ],
)  # fmt: skip
def test_what_no_decoder_of_ours_says_is_no_pair(said: Any) -> None:
    sound = {"size": [1, 1], "mask_share": 0.5, "conversions": ["x"]}
    assert Pair.of_json(json.dumps(sound).encode()) == Pair((1, 1), 0.5, ("x",))
    with pytest.raises(ValueError):
        Pair.of_json((json.dumps(sound | said) if isinstance(said, dict) else said).encode())


def test_a_pair_survives_its_way() -> None:
    pair = Pair((3, 2), 0.25, ("a", "b" * 1000))
    assert Pair.of_json(pair.as_json()) == Pair((3, 2), 0.25, ("a", "b" * 400))


def test_a_reading_reaches_the_host_as_it_was_asked_for(tmp_path: Path) -> None:
    put(tmp_path, {"half": {"mask": mask((24, 16), level=1)}})
    files = [Whole((tmp_path / f"half-{what}.png").read_bytes()) for what in ("image", "mask")]
    common: dict[str, Any] = {"max_pixels": 10**6, "format": "png", "resize": True}
    with Helper() as helper:
        for reading, share in (
            (PairReading(**common), 0.25),
            (PairReading(**common, invert=True), 0.75),
            (PairReading(**common, dilate=2), 14 / 48),
            (PairReading(**common, threshold=1), 0.25),
        ):
            made = helper.make(Job("pair", 0, 10**6, reading=reading), files)
            assert Pair.of_json(split_parts(made.data)[0]).mask_share == pytest.approx(share)
