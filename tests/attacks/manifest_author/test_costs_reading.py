"""A manifest whose author wants the planning worker's memory or hours: both grow with its bytes, and with nothing else.

Work is counted in calls and memory by tracemalloc, so that no machine is too slow or too busy for these.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import Location
from inpaint_ops.manifest import ManifestLimits, ParsedManifest, formats, naming, packed, read_manifest
from inpaint_ops.manifest import text as manifest_text
from inpaint_ops.planning import JobOptions, split_rows
from inpaint_ops.row_work import reject_rows_without_steps

MIB = 2**20
LONGEST = 64 * 2**10
"""Bytes of a row in these tests, at most: a sixteenth of what is allowed, so the constant is a sixteenth, too."""
CONSTANT = 50 * LONGEST
"""What may be taken besides twice the file for one row's objects."""
EACH = 250
"""And for each row, whatever is in it."""
ROW = b'"image":"a.png","mask":"m.png","prompt":"p"'


def read(data: bytes, name: str, **limits: int) -> ParsedManifest:
    return read_manifest(
        data,
        location=Location("b", f"inbox/{name}"),
        is_allowed=lambda _: True,
        limits=ManifestLimits(**{"max_row_bytes": LONGEST, **limits}),
    )


def filled(head: bytes, unit: bytes, tail: bytes, size: int = LONGEST - 64) -> bytes:
    """As many units as a row of `size` bytes has room for."""
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def named(unit: str, count: int) -> bytes:
    return ",".join(unit.format(at) for at in range(count)).encode()


def extra(unit: bytes, tail: bytes = b"0]}}\n") -> bytes:
    return filled(b"{" + ROW + b',"extra":{"x":[', unit, tail)


LARGE: dict[str, bytes] = {
    "empty-lists.jsonl": extra(b"[],"),
    "small-objects.jsonl": extra(b'{"":0},'),
    "floats.jsonl": extra(b"1e15,"),
    "integers.jsonl": extra(b"1" * 4300 + b","),
    "one-integer.jsonl": b"{" + ROW + b',"extra":{"x":' + b"1" * 60_000 + b"}}\n",
    "escapes.jsonl": extra(b'"\\u00e9",'),
    "wide-letters.jsonl": filled(b"{" + ROW + b',"extra":{"x":"' + "😀".encode(), b"a", b'"}}\n'),
    "deep.jsonl": b"{" + ROW + b',"extra":{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}}\n",
    "many-keys.jsonl": b"{" + ROW + b',"extra":{' + named('"k{0}":{0}', 4000) + b"}}\n",
    "unknown-fields.jsonl": b"{" + ROW + b"," + named('"k{0}":{0}', 4000) + b"}\n",
    "one-long-field.jsonl": b"{" + ROW + b',"' + b"k" * 60_000 + b'":1}\n',
    "no-line-end.jsonl": b"x" * LONGEST,
    "commas.csv": b"," * LONGEST,
    "comma-lines.csv": b"," * (LONGEST - 2) + b"\n",
    "quoted-cells.csv": filled(b"", b'"",', b"\n"),
    "never-closed.csv": b'a,b,"' + b"x" * LONGEST,
    "doubled-quotes.csv": b'a,b,"' + b'""' * (LONGEST // 2) + b'"\n',
}
"""A row of each, or one that is too long; a file is several of them."""


def grown(data: bytes, name: str) -> int:
    """Bytes above the file's own that reading it took at its peak, what is kept included."""
    tracemalloc.start()
    try:
        read(data, name)
    except ManifestError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def file_of(name: str, times: int) -> bytes:
    return (b"image,mask,prompt\n" if name.endswith(".csv") else b"") + LARGE[name] * times


@pytest.mark.parametrize("name", LARGE)
def test_a_large_row_costs_its_own_objects_and_no_more_for_each_further_one(name: str) -> None:
    """Rows whose objects are thirty times their text, until planning has no memory left."""
    grown(b"image,mask,prompt\na,m,p\n", "m.csv")  # what is made once, at the first call
    one, four = grown(file_of(name, 1), name), grown(file_of(name, 4), name)
    assert one <= 2 * LONGEST + CONSTANT
    assert four - one <= 2 * 3 * LONGEST + CONSTANT // 4, "what is kept of three further rows"


SMALL: dict[str, Callable[[int], str]] = {
    "small.jsonl": lambda at: '{"image":"a","mask":"m","prompt":""}\n',
    "junk.jsonl": lambda at: "x\n",
    "one-unknown-field.jsonl": lambda at: '{"q":1}\n',
    "authored-ids.jsonl": lambda at: f'{{"id":"Ǎб{at}","image":"a","mask":"m","prompt":""}}\n',
    "one-id.jsonl": lambda at: '{"id":"a","image":"a","mask":"m","prompt":""}\n',
    "rows.csv": lambda at: "a,m,p\n",
    "bad-rows.csv": lambda at: "a,m,p,x\n",
}


@pytest.mark.parametrize("name", SMALL)
def test_many_small_rows_cost_some_bytes_each(name: str) -> None:
    """As many rows, or as many errors of a kilobyte, as a few bytes each can buy."""
    rows = 2000
    header = "image,mask,prompt\n" if name.endswith(".csv") else ""
    data = (header + "".join(SMALL[name](at) for at in range(rows))).encode()
    first = (header + SMALL[name](0)).encode()
    grown(first, name)  # what is made once, at the first call
    most = 2 * len(data) + rows * EACH + MIB
    assert any(grown(data, name) <= most for _ in range(3)), "every 40,000 rows Python moves its table of strings: 2 MB"


def test_a_column_of_parquet_said_again_and_again_costs_what_it_unpacks_to_at_most() -> None:
    """A file of kilobytes that unpacks to rows of a hundred kilobytes each."""
    rows = 200
    said = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 100_000])
    table = pa.Table.from_arrays([pa.array(["a"] * rows), pa.array(["m"] * rows), said], ["image", "mask", "prompt"])
    sink = io.BytesIO()
    pq.write_table(table, sink, store_schema=False)
    assert len(sink.getvalue()) < 50_000
    assert grown(sink.getvalue(), "m.parquet") < 4 * MIB


class Calls:
    """Counts the calls of Python functions of this package, whatever they are."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and "inpaint_ops" in frame.f_code.co_filename:
            self.count += 1


def calls(work: Callable[[], object]) -> int:
    counter, before = Calls(), sys.getprofile()
    sys.setprofile(counter)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counter.count


def spelled(count: int) -> list[str]:
    """One name in as many spellings, told apart by the case of its letters."""
    ways = itertools.product(*((letter, letter.upper()) for letter in "photographsfrom"))
    return ["".join(way) for way in itertools.islice(ways, count)]


STEMS: dict[str, Callable[[int], list[dict[str, str]]]] = {
    "one stem": lambda n: [{"image": "photo.png"}] * n,
    "one stem in every case": lambda n: [{"image": f"{name}.png"} for name in spelled(n)],
    "case foldings that grow": lambda n: [
        {"image": ("straße.png", "STRASSE.png", "stra\u017f\u017fe.png")[at % 3]} for at in range(n)
    ],
    "stems where generated names go": lambda n: [{"image": f"a-{at}.png" if at % 2 else "a.png"} for at in range(n)],
    "ids where generated names go": lambda n: [
        {"image": "a.png", **({"id": f"A-{at}"} if at % 2 else {})} for at in range(n)
    ],
    "ids where rejected rows' names go": lambda n: [
        {"image": "a.png", "id": f"row-{at}"} if at % 2 else {"image": ""} for at in range(n)
    ],
    "one id": lambda n: [{"image": "a.png", "id": "cup"}] * n,
    "names cut to one stem": lambda n: [{"image": "x" * 60 + f"{at}.png"} for at in range(n)],
}


@pytest.mark.parametrize("kind", STEMS)
def test_names_are_found_in_linear_work(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that differ by case alone, or stand where generated ones would: 8,000 rows took 9 s, 200,000 some hours."""
    looked: list[str] = []
    digest = naming._digest
    monkeypatch.setattr(naming, "_digest", lambda name: (looked.append(name), digest(name))[1])
    rows = 800
    lines = [json.dumps({"mask": "m.png", "prompt": "p", **row}, ensure_ascii=False) for row in STEMS[kind](rows)]
    parsed = read("\n".join(lines).encode(), "m.jsonl")
    ids = [row.id.casefold() for row in (*parsed.accepted, *parsed.rejected)]
    assert len(ids) == len(set(ids)) == rows
    assert rows <= len(looked) <= 4 * rows


@pytest.mark.parametrize("name", [*SMALL, "empty-lists.jsonl", "unknown-fields.jsonl", "comma-lines.csv"])
def test_twice_the_file_takes_twice_the_calls(name: str) -> None:
    """Any path of reading, checking or naming that grows faster than the file."""
    header = b"image,mask,prompt\n" if name.endswith(".csv") else b""

    def work(rows: int) -> Callable[[], object]:
        body = "".join(map(SMALL[name], range(rows))).encode() if name in SMALL else LARGE[name] * (rows // 250)
        return lambda: read(header + b"a,m,p\n" * bool(header) + body, name)

    work(250)()
    once, twice = calls(work(250)), calls(work(500))
    assert once > 0 and twice < 2.5 * once


def test_a_record_of_csv_that_is_too_long_is_skipped_to_its_own_end() -> None:
    """A cell of megabytes that hides rows in its quotes: they are its text, and the row after it is a row."""
    hidden = b'"' + b'x,"",\n"" a.png,m.png,p\r\n' * 6000 + b'"'
    data = b"image,mask,prompt\na.png,m.png,one\nb.png,m.png," + hidden + b"\nc.png,m.png,three\n"
    parsed = read(data, "m.csv")
    assert [(row.row, row.prompt) for row in parsed.accepted] == [(2, "one"), (3 + 12_000 + 1, "three")]
    assert [row.error.message for row in parsed.rejected] == ["row 3: longer than 65536 bytes (INPAINT_MAX_ROW_BYTES)"]


def test_a_plan_looks_at_a_row_at_a_time() -> None:
    """As many rows as a manifest may have: planning holds none of them, whatever it asks each."""
    rows = 1500
    line = b'{"image":"a.png","mask":"m.png","prompt":"p","strength":%s,"extra":{"x":"%s"}}\n'
    data = b"".join(line % (b"0.001" if at % 3 else b"1.0", b"y" * 2000) for at in range(rows))
    parsed = read(data, "m.jsonl")
    tracemalloc.start()
    kept, _ = reject_rows_without_steps(parsed, JobOptions(model="m"))
    shards = split_rows(kept.accepted, shard_rows=10, max_shards=1000)
    seen = sum(len(row.extra["x"]) for _, part in shards for row in part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(kept.accepted), len(kept.rejected), seen) == (500, 1000, 500 * 2000)
    assert [row.row for row in kept.rejected[:3]] == [2, 3, 5]
    assert peak < 2 * MIB, "a third of the file's three megabytes are rows to paint, as text"


def test_what_is_kept_is_what_was_read() -> None:
    """Rows packed and unpacked, by order, index and slice, over the ends of many blocks."""
    lines, ids = packed.PackedLines(), packed.PackedLines()
    words = [str(at) * (at % 700) for at in range(1000)]
    for at, word in enumerate(words):
        lines.append(word.encode())
        ids.append(b"%d" % at)
    rows = packed.PackedRows(lambda line, name: (name, line.decode()), lines, ids)
    wanted = [(str(at), word) for at, word in enumerate(words)]
    assert len(lines._blocks) > 3
    assert list(rows) == wanted == [rows[at] for at in range(len(rows))]
    for cut in (slice(3, 999), slice(-5, None), slice(None, None, 7), slice(990, 20, -1), slice(5, 5)):
        assert list(rows[cut]) == wanted[cut]
    assert rows[10:900][5:50] == wanted[10:900][5:50] and rows[-1] == wanted[-1]
    with pytest.raises(IndexError):
        rows[1000]


def test_a_lines_end_is_found_before_it_is_copied() -> None:
    """A file of one line: nothing of it is copied."""
    tracemalloc.start()
    assert list(manifest_text.json_lines(b"x" * (32 * MIB), MIB)) == [(1, manifest_text.TooLong(b"x" * 4096, 32 * MIB))]
    taken = tracemalloc.get_traced_memory()[1] - 32 * MIB
    tracemalloc.stop()
    assert taken < MIB


def test_the_objects_of_a_row_are_gone_before_the_next_ones_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of objects at once would be twice the constant."""
    alive: list[int] = []

    class Extra(dict[str, Any]):
        count = 0

        def __init__(self, pairs: Any) -> None:
            super().__init__(pairs)
            Extra.count += 1
            alive.append(Extra.count)

        def __del__(self) -> None:
            Extra.count -= 1

    monkeypatch.setattr(formats, "_no_duplicates", Extra)
    line = b"{" + ROW + b',"extra":{"x":[]}}\n'
    assert len(read(line * 20, "m.jsonl").accepted) == 20
    assert max(alive) == 2, "a row and its `extra`"
