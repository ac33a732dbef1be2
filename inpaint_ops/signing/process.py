"""The process that signs one image: `python -m inpaint_ops.signing.process PARENT [IMAGE SOURCE OUT]`, open files.

It alone has the key. It reads key and certificate, closes itself to other processes, gives up its network unless a
timestamp authority is to be asked, and only then looks at foreign bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import resource
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from inpaint_ops.errors import ConfigError
from inpaint_ops.machine import limited_process
from inpaint_ops.signing.credential import CERTIFICATE, KEY, Credential, credential
from inpaint_ops.signing.manifest import LIBRARY_SETTINGS, definition, ingredient
from inpaint_ops.signing.signer import Claim, Reply, Request

_CPU_SECONDS = 100
_DATA_BYTES = 4 * 2**30
_MOST_BYTES = 2**20
"""Of a certificate chain or a key."""
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


def main() -> None:
    """Answer the one request on standard input."""
    limited_process.close_to_others()
    limited_process.die_with_parent()
    parent, *files = map(int, sys.argv[1:])
    if os.getppid() != parent:
        return
    request = Request.model_validate_json(sys.stdin.buffer.read())
    print(_answer(request, files).model_dump_json(), flush=True)


def _answer(request: Request, files: list[int]) -> Reply:
    try:
        signer = credential(_read(request.certificate, CERTIFICATE), _read(request.key, KEY), datetime.now(UTC))
    except ConfigError as error:
        return Reply(error=str(error), is_refused=True)
    if not request.timestamps:
        limited_process.withdraw()
    limited_process.limit(data_bytes=_DATA_BYTES, cpu_seconds=_CPU_SECONDS)
    if request.claim is None:
        claim = Claim(
            tool="inpaint-ops", version="0", title="", media_type="image/png", source_title="",
            source_media_type="image/png", box=(0, 0, 1, 1), share=1,
        )  # fmt: skip
        tried = _sign(signer, request, claim, io.BytesIO(_PIXEL), io.BytesIO(_PIXEL), io.BytesIO())
        if tried.error and not tried.may_pass:
            why = f"{CERTIFICATE}: nothing can be signed with it: {tried.error}"
            return tried.model_copy(update={"error": why, "is_refused": True})
        return tried
    resource.setrlimit(resource.RLIMIT_FSIZE, (request.room, request.room))
    with os.fdopen(files[0], "rb") as image, os.fdopen(files[1], "rb") as source, os.fdopen(files[2], "w+b") as out:
        for file in (image, source):
            file.seek(0)
        return _sign(signer, request, request.claim, image, source, out)


def _read(path: str, setting: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror}") from None


def _sign(
    signer: Credential, request: Request, claim: Claim, image: BinaryIO, source: BinaryIO, out: BinaryIO
) -> Reply:
    import c2pa

    digest = hashlib.sha256()
    while chunk := source.read(2**20):
        digest.update(chunk)
    source.seek(0)
    sha256, note = digest.hexdigest(), ""
    context = c2pa.Context.from_dict(LIBRARY_SETTINGS)
    about = json.dumps(ingredient(claim, sha256))
    try:
        builder = c2pa.Builder.from_json(json.dumps(definition(claim, sha256)), context)
        try:
            builder.add_ingredient(about, claim.source_media_type, source)
        except c2pa.C2paError as error:
            note = f"the source's own credentials could not be read for the C2PA manifest: {error}"
            builder = c2pa.Builder.from_json(json.dumps(definition(claim, sha256)), context)
            builder.add_ingredient(about, "image/png", io.BytesIO(_PIXEL))
        info = c2pa.C2paSignerInfo(
            signer.algorithm.encode(), signer.chain, signer.key, request.timestamps.encode() or None
        )
        builder.sign(c2pa.Signer.from_info(info), claim.media_type, image, out)
        out.flush()
        out.seek(0)
        return _written(c2pa.Reader(claim.media_type, out, context=context), note, bool(request.timestamps))
    except c2pa.C2paError as error:
        text = str(error)
        return Reply(error=text, may_pass=bool(request.timestamps) and _is_of_time(text))


def _is_of_time(text: str) -> bool:
    return any(part in text.lower() for part in ("timestamp", "time stamp", "tsa", "http", "connect", "network"))


def _written(reader: Any, note: str, with_time: bool) -> Reply:
    """What the library's own reader finds in what was written."""
    found = json.loads(reader.json())
    if reader.get_validation_state() not in ("Valid", "Trusted"):
        codes = [one["code"] for one in found.get("validation_status", ())]
        return Reply(error=f"what was signed is not valid: {', '.join(codes)}")
    active = found["manifests"][found["active_manifest"]]
    timed = bool(active.get("signature_info", {}).get("time"))
    if with_time and not timed:
        return Reply(error="the signature has no timestamp", may_pass=True)
    return Reply(label=found["active_manifest"], timestamped=timed, note=note)


if __name__ == "__main__":
    main()
