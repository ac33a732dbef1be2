"""Pulling a model from a (small, local) hub: once, resumed, checked; what is then in the cache."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from demo.ports import claim_port
from inpaint_ops.device import describe
from inpaint_ops.errors import ModelError
from inpaint_ops.model import random_weights
from inpaint_ops.model.cached_models import cached_models
from inpaint_ops.model.loading import LoadedModel, load
from inpaint_ops.model.pulling import pull
from inpaint_ops.model.sources import find, resolve
from inpaint_ops.model.verifying import verify
from inpaint_ops.tuning import Tuning
from tests.support.waiting import PATIENCE, wait_until

UNET = "unet/diffusion_pytorch_model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as fetching a public model needs (huggingface_hub 2.4)."""

    folder: ClassVar[Path]
    asked: ClassVar[list[str]]
    ranges: ClassVar[list[str]] = []
    stall_once: ClassVar[set[str]] = set()
    """Files of which the first request gets half, and then nothing until the test is over."""
    over: ClassVar[threading.Event]

    def log_message(self, *_: object) -> None:
        pass

    def files(self) -> dict[str, int]:
        return {str(p.relative_to(self.folder)): p.stat().st_size for p in self.folder.rglob("*") if p.is_file()}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/api/models/owner/tiny/tree/"):
            listing = [{"type": "file", "path": n, "size": s, "oid": f"{n}-{s}"} for n, s in self.files().items()]
            self.answer(json.dumps(listing).encode())
        elif path in ("/api/models/owner/tiny", "/api/models/owner/tiny/revision/main"):
            siblings = [{"rfilename": n, "size": s} for n, s in self.files().items()]
            self.answer(json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/owner/tiny/resolve/{COMMIT}/"):
            name = path.split(f"{COMMIT}/")[1]
            if self.command == "GET":
                self.asked.append(name)
            self.answer((self.folder / name).read_bytes(), name)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, body: bytes, name: str = "") -> None:
        start = 0
        if asked_range := self.headers.get("Range"):
            self.ranges.append(f"{name} {asked_range}")
            start = int(asked_range.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if name:
            self.send_header("ETag", f'"{name.replace("/", "-")}-{len(body)}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET" and name in self.stall_once:
            self.stall_once.discard(name)
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.over.wait()
        elif self.command == "GET":
            self.wfile.write(body[start:])


def loaded(cache: Path, revision: str | None = None) -> LoadedModel:
    found = find(resolve("owner/tiny", revision, cache=cache), dtype="float32", cache=cache)
    return load(found, describe("cpu"), Tuning(dtype="float32"))


@pytest.fixture
def hub(cache: Path, tmp_path: Path) -> Iterator[type[Hub]]:
    """A hub that has tiny-random as owner/tiny, with the pickles and images that repositories also hold."""
    Hub.folder = Path(shutil.copytree(random_weights.ensure("tiny-random", cache), tmp_path / "repository"))
    Hub.asked, Hub.ranges, Hub.stall_once, Hub.over = [], [], set(), threading.Event()
    (Hub.folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (Hub.folder / "README.md").write_text("words")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    os.environ["TEST_HUB"] = f"http://127.0.0.1:{server.server_address[1]}"
    yield Hub
    Hub.over.set()
    del os.environ["TEST_HUB"]
    server.shutdown()
    thread.join()
    server.server_close()


def start_pull(
    cache: Path, model: str = "owner/tiny", *, before: str = "", **environment: str
) -> subprocess.Popen[str]:
    code = before + (
        "import sys; from pathlib import Path; from inpaint_ops.model.pulling import pull; "
        "print(pull(sys.argv[1], cache=Path(sys.argv[2]))); sys.exit('torch' in sys.modules)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, model, str(cache)],
        env=os.environ
        | {"HF_ENDPOINT": os.environ["TEST_HUB"], "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_pulling_fetches_once_what_is_needed_and_then_loads_offline(hub: type[Hub], tmp_path: Path) -> None:
    racing = [start_pull(tmp_path / "cache") for _ in range(10)]
    said = [process.communicate(timeout=PATIENCE) for process in racing]
    assert [process.returncode for process in racing] == [0] * 10, said
    folder = tmp_path / "cache" / "hub" / "models--owner--tiny" / "snapshots" / COMMIT
    assert said[0][0].strip() == str(folder)
    assert len(hub.asked) == len(set(hub.asked)), "each file is fetched once"
    assert UNET in hub.asked
    assert not [name for name in hub.asked if name.endswith((".bin", ".md"))]

    offline = start_pull(tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert offline.communicate(timeout=PATIENCE)[0].strip() == str(folder)
    for revision in (None, "main", COMMIT):
        model = loaded(tmp_path / "cache", revision)
        assert model.identity.revision == COMMIT
        assert model.identity.name == "owner/tiny"
        times = model.load_times
        assert times.download is not None
        assert times.download > 0
        assert min(times.resolve, times.disk, times.device, times.tune) > 0


def test_a_partial_download_is_found_and_completed(hub: type[Hub], tmp_path: Path) -> None:
    first = start_pull(tmp_path / "cache")
    assert first.wait(PATIENCE) == 0
    folder = tmp_path / "cache" / "hub" / "models--owner--tiny" / "snapshots" / COMMIT
    (folder / UNET).resolve().unlink()
    (folder / UNET).unlink()
    with pytest.raises(ModelError, match="unet"):
        loaded(tmp_path / "cache")
    hub.asked.clear()
    assert start_pull(tmp_path / "cache").wait(PATIENCE) == 0
    assert hub.asked == [UNET]
    loaded(tmp_path / "cache")


def test_a_download_that_was_killed_goes_on_where_it_stopped(hub: type[Hub], tmp_path: Path) -> None:
    hub.stall_once.add(UNET)
    half = (hub.folder / UNET).stat().st_size // 2
    small_chunks = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 65536; "
    first = start_pull(tmp_path / "cache", before=small_chunks)
    blobs = tmp_path / "cache" / "hub" / "models--owner--tiny" / "blobs"

    def half_way() -> bool:
        assert first.poll() is None, first.communicate()
        with contextlib.suppress(FileNotFoundError):  # another file is whole, and has its own name now
            return any(path.stat().st_size > half // 2 for path in blobs.glob("*.inpaint_ops-part"))
        return False

    wait_until(half_way)
    first.kill()
    first.communicate()
    second = start_pull(tmp_path / "cache")
    said = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, said
    assert hub.asked.count(UNET) == 2
    (resumed,) = (text for text in hub.ranges if text.startswith(UNET))
    assert half // 2 < int(resumed.split("bytes=")[1].rstrip("-")) <= half
    loaded(tmp_path / "cache")


def test_the_disks_room_is_asked_before_a_byte_is_fetched(hub: type[Hub], tmp_path: Path) -> None:
    full = "import shutil; shutil.disk_usage = lambda _: type('Usage', (), {'free': 1_000_000})(); "
    process = start_pull(tmp_path / "cache", before=full)
    assert "needs 0.0 GB more" in process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1
    assert hub.asked == []


def test_the_list_names_what_is_whole_and_what_is_not(hub: type[Hub], tmp_path: Path) -> None:
    assert start_pull(tmp_path / "cache").wait(PATIENCE) == 0
    random_weights.ensure("tiny-random", tmp_path / "cache")
    tiny, built = cached_models(tmp_path / "cache")
    assert (tiny.name, tiny.revision, tiny.problem, tiny.random) == ("owner/tiny", COMMIT, "", False)
    assert (built.name, built.revision, built.problem) == ("tiny-random", "recipe-1", "")
    assert tiny.bytes == built.bytes == verify(built.folder).bytes
    (built.folder / UNET).unlink()

    def listed(*options: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"HF_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "inpaint_ops.cli", "models", "list", *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = listed("--json")
    assert done.returncode == 2
    rows = {row["name"]: row for row in json.loads(done.stdout)["models"]}
    assert (rows["owner/tiny"]["whole"], rows["tiny-random"]["whole"]) == (True, False)
    assert "unet" in rows["tiny-random"]["problem"]
    assert "NOT WHOLE" in listed().stdout


def test_offline_says_what_is_missing(hub: type[Hub], tmp_path: Path) -> None:
    absent = start_pull(tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert "owner/tiny is not in the cache" in absent.communicate(timeout=PATIENCE)[1]
    assert start_pull(tmp_path / "cache").wait(PATIENCE) == 0
    folder = tmp_path / "cache" / "hub" / "models--owner--tiny" / "snapshots" / COMMIT
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    part = start_pull(tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert "vae has no safetensors weights" in part.communicate(timeout=PATIENCE)[1]
    assert part.returncode != 0


def test_pulling_what_the_hub_has_not_is_one_clear_line(hub: type[Hub], tmp_path: Path) -> None:
    unknown = start_pull(tmp_path, "owner/unknown")
    assert "the hub has no owner/unknown" in unknown.communicate(timeout=PATIENCE)[1]
    with closing(claim_port()) as nobodys:
        nobody = start_pull(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{nobodys.port}")
        assert "cannot fetch owner/tiny" in nobody.communicate(timeout=PATIENCE)[1]
    (hub.folder / UNET).unlink()
    pickled = start_pull(tmp_path)
    assert "no safetensors for unet" in pickled.communicate(timeout=PATIENCE)[1]
    assert hub.asked == []


def test_pulling_a_random_model_builds_it_and_a_folder_is_verified(cache: Path, folder: Path) -> None:
    assert pull("tiny-random", cache=cache) == random_weights.ensure("tiny-random", cache)
    assert pull(str(folder)) == folder
    (folder / UNET).write_bytes(b"")
    with pytest.raises(ModelError, match="cut short"):
        pull(str(folder))
    with pytest.raises(ModelError, match="needs no files"):
        pull("sdxl-random", cache=cache)
