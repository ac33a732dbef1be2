"""Images with Content Credentials: what they say, that the library's own reader verifies it, and who has the key."""

# ruff: noqa: A002 - `format` is the manifest's own name for it

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.x509.oid import ExtendedKeyUsageOID

from inpaint_ops.cli.main import main
from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, SigningError, SigningUnavailableError
from inpaint_ops.images import MEDIA_TYPES, Format, decode_source, encode
from inpaint_ops.machine import limited_process
from inpaint_ops.signing import Claim, Signing, read_credentials, signing_of
from tests.support.certificates import certified
from tests.support.written import EACH_FORMAT

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Signing:
    return Signing(*certified().write(tmp_path_factory.mktemp("certificate")))


def picture(format: Format = "png", kind: type = np.uint8, channels: int = 3) -> bytes:
    pixels = np.random.default_rng(1).integers(0, np.iinfo(kind).max, (48, 64, channels), dtype=kind)
    return encode(pixels, format=format, icc=None)


def claim(format: Format, **fields: Any) -> Claim:
    return Claim(
        **{
            "tool": "inpaint-ops", "version": "1", "title": "sofa", "media_type": MEDIA_TYPES[format],
            "source_title": "sofa.jpg", "source_media_type": "image/jpeg", "box": (10, 20, 40, 44), "share": 0.25,
        } | fields
    )  # fmt: skip


def sign(made: Signing, tmp_path: Path, about: Claim, image: bytes, source: bytes, room: int = 2**20) -> bytes:
    (tmp_path / "image").write_bytes(image)
    (tmp_path / "source").write_bytes(source)
    with (
        (tmp_path / "image").open("rb") as one,
        (tmp_path / "source").open("rb") as two,
        (tmp_path / "out").open("w+b") as out,
    ):
        signed = made.sign(about, one, two, out, room=len(image) + len(source) + room)
    data = (tmp_path / "out").read_bytes()
    assert signed.label.encode() in data
    return data


@pytest.mark.parametrize("format", EACH_FORMAT)
@pytest.mark.parametrize(("kind", "channels"), [(np.uint8, 3), (np.uint8, 4), (np.uint16, 3)])
def test_every_format_that_is_written_is_signed_and_verified_and_keeps_its_pixels(
    made: Signing, tmp_path: Path, format: Format, kind: type, channels: int
) -> None:
    image, source = picture(format, kind, channels), picture("jpeg")
    data = sign(made, tmp_path, claim(format), image, source)
    before, after = (decode_source(one, max_pixels=2**20) for one in (image, data))
    assert before.pixels.dtype == after.pixels.dtype and np.array_equal(before.pixels, after.pixels)
    root = made.certificate.read_text()
    context = c2pa.Context.from_dict({"trust": {"user_anchors": root}, "verify": {"verify_trust": True}})
    reader = c2pa.Reader(MEDIA_TYPES[format], io.BytesIO(data), context=context)
    assert reader.get_validation_state() == "Trusted"
    manifest = reader.get_active_manifest()
    assert manifest is not None
    (ingredient,) = manifest["ingredients"]
    assert (ingredient["relationship"], ingredient["title"]) == ("parentOf", "sofa.jpg")
    digest = subprocess.run(["sha256sum", tmp_path / "source"], capture_output=True, text=True, check=True).stdout[:64]
    assert digest in ingredient["description"]
    by_label = {one["label"]: one["data"] for one in manifest["assertions"]}
    assert by_label["org.inpaint-ops.source"] == {"alg": "sha256", "hash": digest}
    opened, edited = by_label["c2pa.actions.v2"]["actions"]
    assert opened["action"] == "c2pa.opened" and opened["parameters"]["ingredients"]
    assert (edited["action"], edited["digitalSourceType"]) == ("c2pa.edited", SOURCE_TYPE)
    shape = edited["changes"][0]["region"][0]["shape"]
    assert (shape["origin"], shape["width"], shape["height"]) == ({"x": 10.0, "y": 20.0}, 30.0, 24.0)
    assert "25.00%" in edited["changes"][0]["description"]


def test_a_changed_pixel_or_manifest_is_found(made: Signing, tmp_path: Path) -> None:
    data = bytearray(sign(made, tmp_path, claim("tiff"), picture("tiff"), picture("jpeg")))
    found = read_credentials(bytes(data), "image/tiff")
    assert found is not None and (found["state"], found["signed by"]) == ("Valid", "Signer, Studio")
    assert found["actions"].startswith("c2pa.opened; c2pa.edited (compositeWithTrainedAlgorithmicMedia)")
    assert read_credentials(picture("tiff"), "image/tiff") is None
    data[2000] ^= 1
    changed = read_credentials(bytes(data), "image/tiff")
    assert changed is not None and changed["state"].startswith("Invalid")


def test_the_credentials_of_a_source_are_kept_in_those_of_the_image(made: Signing, tmp_path: Path) -> None:
    first = sign(made, tmp_path, claim("jpeg"), picture("jpeg"), picture("jpeg"))
    second = sign(made, tmp_path, claim("png"), picture("png"), first)
    found = json.loads(c2pa.Reader("image/png", io.BytesIO(second)).json())
    assert len(found["manifests"]) == 2
    assert found["manifests"][found["active_manifest"]]["ingredients"][0]["active_manifest"] in found["manifests"]


def test_a_source_that_the_library_cannot_read_is_named_by_its_hash_and_a_note(made: Signing, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(picture())
    (tmp_path / "source").write_bytes(b"a format of its own")
    with (
        (tmp_path / "image").open("rb") as one,
        (tmp_path / "source").open("rb") as two,
        (tmp_path / "out").open("w+b") as out,
    ):
        signed = made.sign(claim("png", source_media_type="image/png"), one, two, out, room=2**20)
    assert "could not be read" in signed.note
    found = read_credentials((tmp_path / "out").read_bytes(), "image/png")
    assert found is not None and found["state"] == "Valid"
    digest = subprocess.run(["sha256sum", tmp_path / "source"], capture_output=True, text=True, check=True).stdout[:64]
    assert digest in found["ingredients"]


def test_an_image_that_is_none_is_an_error_and_no_file_may_outgrow_its_room(made: Signing, tmp_path: Path) -> None:
    with pytest.raises(SigningError):
        sign(made, tmp_path, claim("png"), b"no picture", picture("jpeg"))
    with pytest.raises(SigningError):
        sign(made, tmp_path, claim("png"), picture(), picture("jpeg"), room=-len(picture("jpeg")) - 10)


def test_what_is_wrong_with_the_certificate_is_one_error_at_the_start(tmp_path: Path) -> None:
    good = certified()
    for name, made, why in (
        ("old", certified(ends=-1, begins=-9), "expired on"),
        ("web", certified(usage=ExtendedKeyUsageOID.SERVER_AUTH), "nothing can be signed with it"),
        ("mix", type(good)(good.chain, certified().key, good.root), "is not that of the certificate"),
    ):
        with pytest.raises(ConfigError, match=why) as raised:
            Signing(*made.write(tmp_path / name)).check()
        assert str(raised.value).startswith("INPAINT_C2PA_")
    with pytest.raises(ConfigError, match=r"INPAINT_C2PA_KEY: .*/none.pem cannot be read"):
        Signing(good.write(tmp_path / "good")[0], tmp_path / "none.pem").check()
    Signing(*good.write(tmp_path / "good")).check()


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    assert signing_of(Settings()) is None
    with pytest.raises(ConfigError, match="INPAINT_C2PA_KEY is not set"):
        signing_of(Settings(c2pa_certificate=tmp_path))
    with pytest.raises(ConfigError, match="INPAINT_C2PA_CERTIFICATE is not set"):
        signing_of(Settings(c2pa_timestamps="http://time.test/"))
    with pytest.raises(ConfigError, match="INPAINT_C2PA_TIMESTAMPS") as raised:
        signing_of(
            Settings(c2pa_certificate=tmp_path, c2pa_key=tmp_path, c2pa_timestamps="http://me:canary@time.test/")
        )
    assert "canary" not in str(raised.value)


def test_an_authority_that_does_not_answer_may_pass_and_is_named(tmp_path: Path) -> None:
    asked = []

    class Broken(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/tsa"
        with pytest.raises(SigningUnavailableError, match="INPAINT_C2PA_TIMESTAMPS"):
            Signing(*certified().write(tmp_path), timestamps=url).check()
        server.shutdown()
    assert asked == ["/tsa"] * len(asked) and asked


def test_the_key_is_in_no_argument_and_no_environment_and_a_key_for_all_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("INPAINT_C2PA_KEY", "canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    started: list[tuple[list[str], bytes]] = []
    start = limited_process.start

    def spied(*arguments: Any, **options: Any) -> Any:
        process = start(*arguments, **options)
        started.append((list(process.args), Path(f"/proc/{process.pid}/environ").read_bytes()))
        return process

    monkeypatch.setattr(limited_process, "start", spied)
    made = Signing(*certified().write(tmp_path))
    made.key.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        made.check()
    ((arguments, environment),) = started
    assert str(tmp_path) not in " ".join(map(str, arguments)) and b"canary" not in environment
    assert "chmod 600" in caplog.text
    assert not any(line in caplog.text for line in made.key.read_text().splitlines())


def test_without_the_extra_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch, made: Signing) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(ConfigError, match=r"install the extra inpaint-ops\[c2pa\]"):
        made.check()
    assert read_credentials(b"..c2pa.claim..", "image/png") == {
        "state": "Unknown: a manifest is there; install the extra inpaint-ops[c2pa] to have it read"
    }


def test_inspect_prints_the_manifest_and_its_state(made: Signing, tmp_path: Path) -> None:
    data = sign(made, tmp_path, claim("png"), picture(), picture("jpeg"))
    (tmp_path / "a.png").write_bytes(data)
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "a.png")])
    assert shown.exit_code == 0, shown.output
    for part in ("state: Valid", "signed by: Signer, Studio", "c2pa.edited", "sofa.jpg (parentOf) SHA-256"):
        assert part in shown.output
    as_json = json.loads(CliRunner().invoke(main, ["inspect", "--json", str(tmp_path / "a.png")]).stdout)
    assert as_json["c2pa"]["state"] == "Valid"
    (tmp_path / "b.png").write_bytes(picture())
    assert "no Content Credentials" in CliRunner().invoke(main, ["inspect", str(tmp_path / "b.png")]).output


def test_the_process_ends_where_it_has_no_parent_to_answer() -> None:
    command = [sys.executable, "-m", "inpaint_ops.signing.process", str(os.getpid() + 1)]
    ended = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"")
