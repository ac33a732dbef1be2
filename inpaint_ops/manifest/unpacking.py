"""The bytes of a manifest as UTF-8 text or a table, out of what they were packed or encoded in."""

from __future__ import annotations

import codecs
import zlib

from inpaint_ops.errors import ManifestError

_GZIP = b"\x1f\x8b"
_PIECE = 2**20
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PACKED = (
    (b"PK\x03\x04", "a ZIP archive: unpack it first, or name it .xlsx if it is an Excel workbook"),
    (b"PAR1", "a Parquet file: name it .parquet"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook of the old format: save it as .xlsx or .csv"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first (zstd -d), or use gzip"),
    (b"BZh", "compressed with bzip2: unpack it first (bunzip2), or use gzip"),
    (b"\xfd7zXZ\x00", "compressed with xz: unpack it first (unxz), or use gzip"),
)


def gunzipped(data: bytes, name: str, max_bytes: int) -> bytes:
    """What is in a gzip file, several members one after the other; other bytes as they are.

    So a file is read that is named `.gz`, or was uploaded with `Content-Encoding: gzip`. No more than `max_bytes` are
    ever unpacked. Raises ManifestError.
    """
    if not data.startswith(_GZIP):
        return data
    out, view, at = bytearray(), memoryview(data), 0
    try:
        while at < len(data) and data.startswith(_GZIP, at):
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                piece = member.unconsumed_tail or view[at : at + _PIECE]
                if not member.unconsumed_tail:
                    at += len(piece)
                    if not piece:
                        raise ManifestError(f"{name}: a gzip file that is cut off: upload it again")
                out += member.decompress(piece, _PIECE)
                if len(out) > max_bytes:
                    raise ManifestError(
                        f"{name}: gzip that unpacks to more than {max_bytes} bytes "
                        "(INPAINT_MAX_MANIFEST_BYTES): split it"
                    )
            at -= len(member.unused_data)
    except zlib.error as error:
        raise ManifestError(f"{name}: a damaged gzip file ({error}): upload it again") from None
    if data[at : at + _PIECE].strip(b"\0"):
        raise ManifestError(f"{name}: a gzip file with something else behind it: upload it again")
    return bytes(out)


def as_utf8(data: bytes, name: str, max_bytes: int) -> tuple[bytes, str | None]:
    """Text in UTF-8, and from which other encoding it comes: UTF-16 or UTF-32, by the byte order mark or the zeros of
    the first letters. Raises ManifestError, also for other kinds of files.
    """
    for mark, what in _PACKED:
        if data.startswith(mark):
            raise ManifestError(f"{name}: {what}")
    encoding = _encoding(data)
    if encoding is None:
        return data, None
    decoder, out, at = codecs.getincrementaldecoder(encoding)(), bytearray(), 0
    try:
        for at in range(0, len(data), _PIECE):
            out += decoder.decode(data[at : at + _PIECE]).encode()
            if len(out) > max_bytes:
                raise ManifestError(
                    f"{name}: {encoding.upper()} text of more than {max_bytes} bytes as UTF-8 "
                    "(INPAINT_MAX_MANIFEST_BYTES): split it"
                )
        out += decoder.decode(b"", final=True).encode()
    except UnicodeError:
        raise ManifestError(
            f"{name}: not whole {encoding.upper()} text (near byte {at}): save the manifest as UTF-8"
        ) from None
    return bytes(out.removeprefix(codecs.BOM_UTF8)), encoding.upper()


def _encoding(data: bytes) -> str | None:
    for mark, encoding in _ENCODINGS:
        if data.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in data[:4]]
    if zeros == [False, True, False, True]:
        return "utf-16-le"
    if zeros == [True, False, True, False]:
        return "utf-16-be"
    return None
