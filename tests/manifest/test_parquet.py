"""Parquet manifests: the same rows as in JSONL, read in a process of its own."""

from __future__ import annotations

import struct
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from inpaint_ops.errors import ManifestError
from inpaint_ops.manifest import (
    ManifestLimits,
)
from tests.fuzz.targets import CORPUS
from tests.support.manifests import GOOD, only_rejection, parquet, read


def test_parquet_carries_the_same_columns_and_null_means_absent() -> None:
    data = parquet([{**GOOD, "seed": 3, "steps": None}, {**GOOD, "seed": None, "steps": 5}])
    parsed = read(data, "m.parquet")
    assert [(row.row, row.id, row.seed, row.steps) for row in parsed.accepted] == [
        (1, "a", 3, None),
        (2, "a-2", None, 5),
    ]


def column(values: list[Any], kind: pa.DataType) -> bytes:
    """Two rows; only the second has anything in the column `extra`."""
    table = pa.Table.from_pylist([GOOD, GOOD]).append_column("extra", pa.array(values, kind))
    return parquet(table)


def test_parquet_text_that_is_not_utf8_rejects_its_row_alone() -> None:
    letters = pa.py_buffer(b"ok\xff!")
    offsets = pa.py_buffer(struct.pack("<iii", 0, 2, 4))
    table = pa.Table.from_pylist([GOOD, GOOD]).set_column(
        2, "prompt", pa.Array.from_buffers(pa.string(), 2, [None, offsets, letters])
    )
    parsed = read(parquet(table), "m.parquet")
    assert parsed.accepted[0].prompt == "ok"
    assert only_rejection(parsed) == "row 2: prompt: not UTF-8"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (column([None, {"t": 2**62}], pa.struct({"t": pa.timestamp("us")})), "extra: cannot be read"),
        (column([None, {"b": b"\xff"}], pa.struct({"b": pa.binary()})), "extra: not UTF-8"),
        (column([None, {"f": float("nan")}], pa.struct({"f": pa.float64()})), "extra: holds NaN, infinity or bytes"),
        (column([None, [("k", 1)]], pa.map_(pa.string(), pa.int32())), "extra: a list is not an object: write"),
        (parquet([GOOD, {**GOOD, "prompt": "x" * 2**21}]), "longer than 1048576 bytes"),
        (parquet([GOOD | {"id": None}, GOOD | {"id": b"a"}]), "id: cannot be read (a bytes, where text or a number"),
    ],
)
def test_a_bad_value_in_parquet_rejects_its_row_alone(data: bytes, words: str) -> None:
    assert words in only_rejection(read(data, "m.parquet"))


def test_times_and_decimals_in_extra_become_text_once() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    parsed = read(parquet([{**GOOD, "extra": {"t": moment, "d": Decimal("1.50")}}]), "m.parquet")
    assert parsed.accepted[0].extra == {"t": "2026-01-02T00:00:00Z", "d": "1.50"}


def test_two_parquet_columns_of_one_name_are_one_clear_error() -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 4, ["image", "mask", "prompt", "image"])
    with pytest.raises(ManifestError, match=r"two columns have one name: \['image'\]"):
        read(parquet(table), "m.parquet")


def test_a_parquet_bomb_is_refused() -> None:
    bomb = parquet([{**GOOD, "prompt": "x" * 2**24}], compression="zstd")
    assert len(bomb) < 10_000
    with pytest.raises(ManifestError, match=r"unpacks to more than 1048576 bytes \(INPAINT_MAX_MANIFEST_BYTES\)"):
        read(bomb, "m.parquet", limits=ManifestLimits(max_bytes=2**20))


def test_one_text_said_again_and_again_is_unpacked_in_pieces_and_refused() -> None:
    rows = 100_000
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 2**19])
    names = ["image", "mask", "prompt"]
    table = pa.Table.from_arrays([pa.array(["a.png"] * rows), pa.array(["m.png"] * rows), repeated], names)
    bomb = parquet(table, store_schema=False)  # else it stays a dictionary when it is read
    assert len(bomb) < 100_000
    with pytest.raises(ManifestError, match="unpacks to more than"):
        read(bomb, "m.parquet", limits=ManifestLimits(max_bytes=2**25))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_damaged_parquet_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(ManifestError, match="not a readable Parquet file"):
        read(data, "m.parquet")


def test_a_parquet_that_ends_its_reader_is_one_clear_error() -> None:
    data = (CORPUS / "parquet" / "found-metadata-that-ends-the-process-2").read_bytes()
    with pytest.raises(ManifestError, match=r"^m\.parquet: its reader was ended by SIGABRT; its last output: "):
        read(data, "m.parquet")


def test_a_reader_that_is_killed_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ManifestError, match=r"m\.parquet: its reader ended with exit code 1"):
        read(parquet([GOOD]), "m.parquet")
    aborts = tmp_path / "aborts"
    aborts.write_text("#!/bin/sh\necho terminate called >&2\nkill -ABRT $$\n")
    aborts.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(aborts))
    with pytest.raises(
        ManifestError, match=r"m\.parquet: its reader was ended by SIGABRT; its last output: terminate called"
    ):
        read(parquet([GOOD]), "m.parquet")


def test_the_reader_of_parquet_has_no_credentials_and_limited_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    hungry = "from inpaint_ops.manifest.parquet import limit; limit(2**20); bytearray(2**31)"
    done = subprocess.run([sys.executable, "-c", hungry], capture_output=True, text=True)
    assert "MemoryError" in done.stderr
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    seen: list[dict[str, str]] = []
    system = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **o: seen.append(o["env"]) or system(*a, **o))
    assert read(parquet([GOOD]), "m.parquet").rows == 1
    assert len(seen) == 1 and "canary" not in seen[0].values()


def test_enough_rows_end_the_reader_of_parquet(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    system = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **o: started.append(system(*a, **o)) or started[-1])
    assert read(parquet([GOOD] * 50_000), "m.parquet", row_limit=2).rows == 2
    assert started[0].poll() is not None
