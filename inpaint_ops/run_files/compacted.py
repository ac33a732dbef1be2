"""A shard's records in one object, `compacted/<shard>.jsonl.gz`, so that a report reads shards and not rows.

It is a copy and decides nothing: a line stands for a row's single record only where that one is listed with the line's
ETag and its size. Whatever is not so (a later record, two attempts that wrote at once, a damaged or made-up file) costs
the reading of the single records. A line is `{"row":7,"etag":"…","record":{…}}`, by row, and the record stands in
it byte by byte.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inpaint_ops.errors import ObjectNotFoundError, StorageError
from inpaint_ops.layout import RunLayout
from inpaint_ops.storage import Storage

log = logging.getLogger(__name__)

_LINE = re.compile(rb'\{"row":([1-9][0-9]{0,9}),"etag":"([^"\\\x00-\x1f]{1,200})","record":(\{.*\})\}')
_ETAG = re.compile(r'[^"\\\x00-\x1f]{1,200}')
_MD5 = re.compile(rb"[0-9a-f]{32}")
_LINE_OVERHEAD = 300
"""Bytes of a line beyond its record, at most."""

_PIECE = 2**16


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """A record as the store holds it: its bytes, and the ETag that the store gave them."""

    etag: str
    body: bytes


def compact(records: Mapping[int, KeptRecord]) -> bytes:
    """The file of these records, by line; those that no line can hold are left out."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, mtime=0) as packed:
        for row in sorted(records):
            kept = records[row]
            if _ETAG.fullmatch(kept.etag) and b"\n" not in kept.body and kept.body[:1] + kept.body[-1:] == b"{}":
                packed.write(b'{"row":%d,"etag":"%b","record":%b}\n' % (row, kept.etag.encode(), kept.body))
    return out.getvalue()


def read_compacted(data: bytes, *, max_bytes: int, max_line: int) -> Iterator[tuple[int, KeptRecord]]:
    """The lines of such a file, by row, unpacked piece by piece. Nobody has checked the records in them.

    Ends at the first line that is none, is out of order, or is longer than `max_line`, and after `max_bytes` of text.
    """
    last = 0
    for line in _lines(data, max_bytes, max_line):
        found = _LINE.fullmatch(line)
        if found is None or int(found[1]) <= last:
            return
        last, etag, body = int(found[1]), found[2], found[3]
        if _MD5.fullmatch(etag) and hashlib.md5(body, usedforsecurity=False).hexdigest().encode() != etag:
            continue  # most stores' ETag of a small object is its MD5: where it is not, the single record is read
        yield last, KeptRecord(etag.decode(errors="replace"), body)


@dataclass(frozen=True, slots=True)
class CompactedShard:
    """A shard's file as it lies in the store, and what may be in it."""

    data: bytes
    max_bytes: int
    max_line: int

    @classmethod
    def read(
        cls, storage: Storage, layout: RunLayout, shard: str, *, records: int, total: int, max_record: int
    ) -> CompactedShard | None:
        """Read it. None where the shard has none, or where it cannot be read, which is logged.

        The shard has so many single `records`, of `total` bytes together, and of `max_record` each at most.
        """
        most = total + records * _LINE_OVERHEAD
        try:
            data = storage.get(layout.compacted_shard(shard), max_bytes=most)
        except ObjectNotFoundError:
            return None
        except StorageError as error:
            log.warning("the records of shard %s are read one by one: %s", shard, error)
            return None
        return cls(data, most, max_record + _LINE_OVERHEAD)

    def lines(self) -> Iterator[tuple[int, KeptRecord]]:
        """What `read_compacted` gives."""
        return read_compacted(self.data, max_bytes=self.max_bytes, max_line=self.max_line)


def read_shard_compacted(
    storage: Storage, layout: RunLayout, shard: str, *, records: int, total: int, max_record: int
) -> Iterator[tuple[int, KeptRecord]]:
    """The lines of a shard's file; none where `CompactedShard.read` finds none."""
    found = CompactedShard.read(storage, layout, shard, records=records, total=total, max_record=max_record)
    if found is not None:
        yield from found.lines()


def _lines(data: bytes, max_bytes: int, max_line: int) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)
    rest, unpacked = b"", 0
    while not unpacker.eof and unpacked < max_bytes and len(rest) <= max_line:
        try:
            piece = unpacker.decompress(data, _PIECE)
        except zlib.error:
            return
        data = unpacker.unconsumed_tail
        if not piece:  # cut off
            return
        unpacked += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
