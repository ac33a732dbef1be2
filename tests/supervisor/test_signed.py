"""An attempt whose images are signed: last, by the key's own process, so that record, file and signature agree."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import c2pa
import pytest
from PIL import Image

from inpaint_ops.errors import ConfigError, SigningError, SigningUnavailableError
from inpaint_ops.runs import finish
from inpaint_ops.signing import Signing, read_credentials
from tests.support.bench import Bench
from tests.support.certificates import certified

pytestmark = pytest.mark.usefixtures("no_gallery")


def bench_of(tmp_path: Path, prompts: list[str], **settings: Any) -> Bench:
    chain, key = certified().write(tmp_path / "certificate")
    bench = Bench(
        tmp_path, prompts, **{"c2pa_certificate": chain, "c2pa_key": key, "check_image_bytes": 2**20} | settings
    )
    for number in range(len(prompts)):
        Image.new("RGB", (2, 1), (number, 9, 9)).save(tmp_path / "in" / f"{number}.png")
    return bench


def test_what_is_stored_is_signed_and_the_record_has_its_digest_and_manifest(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, ["ok", "ok"])
    assert bench.shard_run().run().done == 2
    for number, record in bench.records().items():
        output = record.output
        assert output is not None
        data = bench.workspace.storage.get(output.uri)
        assert (output.sha256, output.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        found = read_credentials(data, "image/png")
        assert found is not None and (found["state"], found["manifest"]) == ("Valid", output.c2pa)
        source = hashlib.sha256((tmp_path / "in" / f"{number - 1}.png").read_bytes()).hexdigest()
        assert f"{number - 1}.png (parentOf)" in found["ingredients"] and source in found["ingredients"]
    summary = finish(bench.workspace, "run")
    assert (summary.counts.done, summary.images_checked) == (2, 2)
    stored = [bench.workspace.storage.get(info.location) for info in bench.workspace.storage.list(bench.layout.root)]
    key = bench.settings.c2pa_key
    assert key is not None
    secret = key.read_bytes().splitlines()[1]
    assert not any(secret in body or str(key).encode() in body for body in stored), "neither the key nor where it is"


def test_without_the_setting_nothing_is_signed(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, ["ok"], c2pa_certificate=None, c2pa_key=None)
    bench.shard_run().run()
    output = bench.records()[1].output
    assert output is not None and "c2pa" not in json.loads(output.model_dump_json())
    assert read_credentials(bench.workspace.storage.get(output.uri), "image/png") is None


def test_with_fewer_marks_the_manifest_names_no_file(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, ["ok"], provenance="mark")
    bench.shard_run().run()
    output = bench.records()[1].output
    assert output is not None
    manifest = c2pa.Reader("image/png", io.BytesIO(bench.workspace.storage.get(output.uri))).get_active_manifest()
    assert manifest is not None and (manifest["title"], manifest["ingredients"][0]["title"]) == ("image", "source")


@pytest.mark.parametrize("kind", ["GIF", "AVIF"])
def test_a_source_of_any_format_is_named_by_its_hash(tmp_path: Path, kind: str) -> None:
    bench = bench_of(tmp_path, ["ok"])
    path = tmp_path / "in" / "0.png"
    Image.new("RGB", (2, 1), (9, 9, 9)).save(path, kind)
    assert bench.shard_run().run().done == 1
    record = bench.records()[1]
    assert record.output is not None
    found = read_credentials(bench.workspace.storage.get(record.output.uri), "image/png")
    assert found is not None and found["state"] == "Valid"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in found["ingredients"]


def test_a_certificate_that_will_not_do_stops_the_attempt_before_a_worker_starts(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, ["ok"])
    certified(begins=-9, ends=-1).write(tmp_path / "certificate")
    with pytest.raises(ConfigError, match=r"INPAINT_C2PA_CERTIFICATE: .* expired on"):
        bench.shard_run().run()
    assert not bench.records() and not bench.notes()


@pytest.mark.parametrize("final", [False, True])
def test_a_row_whose_image_cannot_be_signed_fails_and_the_others_go_on(
    tmp_path: Path, final: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(tmp_path, ["ok", "ok"])
    sign, refusals = Signing.sign, [(SigningUnavailableError if final else SigningError)("nobody stamps the time")]

    def once(self: Signing, *arguments: Any, **options: Any) -> Any:
        with contextlib.suppress(IndexError):
            raise refusals.pop()  # atomic: both rows may be signed at once
        return sign(self, *arguments, **options)

    monkeypatch.setattr(Signing, "sign", once)
    result = bench.shard_run(final_attempt=final).run()
    assert (result.done, result.failed) == (1, 1)
    (failed,) = [record for record in bench.records().values() if record.status == "failed"]
    assert failed.error is not None and failed.error.message == "nobody stamps the time"
