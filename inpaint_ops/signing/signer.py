"""Asking for a signature: whether certificate and key will do, and the signing of one image after another."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from pydantic import Field, ValidationError

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, SigningError, SigningUnavailableError, one_line
from inpaint_ops.machine import limited_process
from inpaint_ops.records import Model

log = logging.getLogger(__name__)

_MODULE = "inpaint_ops.signing.process"
_SECONDS = 120.0
"""Of one signature, the timestamp authority's answer among them."""


_URL = re.compile(r"https?://[^\s@?#]+")


class Claim(Model):
    """What a manifest states of one image.

    `box` is x0, y0, x1, y1 of what was painted, in pixels, and `share` how much of all pixels that is.
    """

    tool: str
    version: str
    title: str
    media_type: str
    source_title: str
    source_media_type: str
    box: tuple[int, int, int, int] | None = None
    share: float | None = Field(default=None, ge=0, le=1)


class Request(Model):
    """To the signing process, by its standard input: where certificate and key are, and what to sign.

    Without a claim, a picture of its own is signed, to see whether that works.
    """

    certificate: str
    key: str
    timestamps: str = ""
    claim: Claim | None = None
    room: int = Field(default=0, description="Bytes that the signed file may have.")


class Reply(Model):
    """Of the signing process, by its standard output."""

    error: str = ""
    is_refused: bool = Field(default=False, description="The certificate or the key will not do.")
    may_pass: bool = Field(default=False, description="Trying again may help: a timestamp authority did not answer.")
    label: str = Field(default="", description="The manifest's own name.")
    timestamped: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Signed:
    """What was written: the manifest's label, whether an authority stamped its time, and what could not be stated."""

    label: str
    timestamped: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Signing:
    """Whose signature images get. `timestamps` is the URL of a timestamp authority, or empty."""

    certificate: Path
    key: Path
    timestamps: str = ""

    def check(self) -> None:
        """Sign a picture of one pixel, so that what is wrong with the certificate is one error before anything is
        painted. Raises ConfigError; SigningUnavailableError where the timestamp authority does not answer.
        """
        if importlib.util.find_spec("c2pa") is None:
            raise ConfigError(
                "INPAINT_C2PA_CERTIFICATE: images cannot be signed here: install the extra inpaint-ops[c2pa], "
                "or leave the setting out"
            )
        self._ask(Request(certificate=str(self.certificate), key=str(self.key), timestamps=self.timestamps), ())
        if self.key.stat().st_mode & 0o007:
            log.warning("the signing key %s may be read by every user of this machine: chmod 600", self.key)

    def sign(self, claim: Claim, image: BinaryIO, source: BinaryIO, out: BinaryIO, *, room: int) -> Signed:
        """Write `image` into the empty file `out`, with a manifest that names `source` as what it was made of.

        All three are real files; `out` may have `room` bytes. Raises SigningError, SigningUnavailableError.
        """
        request = Request(
            certificate=str(self.certificate), key=str(self.key), timestamps=self.timestamps, claim=claim, room=room
        )
        reply = self._ask(request, (image.fileno(), source.fileno(), out.fileno()))
        return Signed(reply.label, reply.timestamped, reply.note)

    def _ask(self, request: Request, files: tuple[int, ...]) -> Reply:
        with tempfile.TemporaryFile() as asked:
            asked.write(request.model_dump_json().encode())
            asked.seek(0)
            process = limited_process.start(
                _MODULE, str(os.getpid()), *map(str, files), stdin=asked, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, pass_fds=files,
            )  # fmt: skip
        try:
            answer, _ = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            _fail(f"no signature within {_SECONDS:.0f} s" + self._who_is_asked(), may_pass=True)
        finally:
            limited_process.kill(process)
        try:
            reply = Reply.model_validate_json(answer)
        except ValidationError:
            _fail(f"the signing process {limited_process.how_it_ended(process.returncode)}", may_pass=False)
        if reply.is_refused:
            raise ConfigError(one_line(reply.error))
        if reply.error:
            _fail(reply.error + (self._who_is_asked() if reply.may_pass else ""), may_pass=reply.may_pass)
        return reply

    def _who_is_asked(self) -> str:
        return f" (the timestamp authority is {self.timestamps}, INPAINT_C2PA_TIMESTAMPS)" if self.timestamps else ""


def _fail(why: str, *, may_pass: bool) -> NoReturn:
    kind = SigningUnavailableError if may_pass else SigningError
    raise kind(f"the image could not be signed (C2PA): {why}")


def signing_of(settings: Settings) -> Signing | None:
    """Whose signature the settings ask for; None: nobody's. Raises ConfigError where they do not go together."""
    given = {
        "INPAINT_C2PA_CERTIFICATE": settings.c2pa_certificate,
        "INPAINT_C2PA_KEY": settings.c2pa_key,
    }
    missing = [name for name, path in given.items() if path is None]
    if settings.c2pa_certificate is None or settings.c2pa_key is None:
        if len(missing) == 1 or settings.c2pa_timestamps:
            raise ConfigError(f"{missing[0]} is not set: images are signed with a certificate and its key; set it too")
        return None
    if settings.c2pa_timestamps and not _URL.fullmatch(settings.c2pa_timestamps):
        raise ConfigError(
            "INPAINT_C2PA_TIMESTAMPS: give an http:// or https:// URL without user, password or query: an authority is "
            "sent no credentials"
        )
    return Signing(settings.c2pa_certificate, settings.c2pa_key, settings.c2pa_timestamps)
