"""Loading: the right model, whole, without pickles, foreign code or a network; pulling from a (small, local) hub."""

from __future__ import annotations

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
from safetensors.numpy import load_file, save_file

from demo.ports import claim_port
from inpaint_ops.config import DEFAULT_MODEL
from inpaint_ops.device import describe
from inpaint_ops.errors import ModelError
from inpaint_ops.model import random_weights
from inpaint_ops.model.loading import LoadedModel, load
from inpaint_ops.model.own_models import MARKER, RECIPE_VERSION
from inpaint_ops.model.sources import PINNED, cached_models, find, pull, resolve, workload
from inpaint_ops.model.verifying import verify
from inpaint_ops.tuning import Tuning, Workload
from tests.support.waiting import PATIENCE, wait_until

CPU = describe("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(cache: Path, tmp_path: Path) -> Path:
    """A copy of tiny-random that a test may spoil."""
    return Path(shutil.copytree(random_weights.ensure("tiny-random", cache), tmp_path / "model"))


def loaded(model: str | Path, cache: Path, tuning: Tuning | None = None, revision: str | None = None) -> LoadedModel:
    tuning = tuning or Tuning()
    return load(find(resolve(str(model), revision, cache=cache), dtype=tuning.dtype, cache=cache), CPU, tuning)


def set_config(folder: Path, part: str, **values: object) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_random_model_is_loaded_and_labelled(cache: Path) -> None:
    phases: list[tuple[str, str]] = []
    found = find(resolve("tiny-random", cache=cache), dtype="float32")
    model = load(found, CPU, Tuning(), lambda *words: phases.append(words))
    assert model.identity.random_weights
    assert model.identity.name == "tiny-random"
    assert model.identity.revision == f"recipe-{RECIPE_VERSION}"
    assert model.identity.dtype == "float32"
    assert len(model.identity.digest) == 64
    assert model.native_size == 64
    assert sum(model.seconds.values()) > 0
    assert [name for name, _ in phases] == ["load", "tune"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_are_held_in_the_dtype_asked_for(cache: Path, dtype: str) -> None:
    model = loaded("tiny-random", cache, Tuning(dtype=dtype))
    assert (model.ledger[0].name, model.ledger[0].effective, model.ledger[0].matches) == ("dtype", dtype, True)
    assert model.identity.dtype == dtype


def test_a_folder_is_loaded_and_its_random_weights_are_still_called_random(folder: Path, cache: Path) -> None:
    model = loaded(folder, cache)
    assert model.identity.random_weights
    (folder / MARKER).unlink()
    again = loaded(folder, cache)
    assert not again.identity.random_weights
    assert again.identity.digest == model.identity.digest


def test_bars_are_silent_and_warnings_are_not_touched(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded("tiny-random", cache)
    printed = capfd.readouterr()
    assert "Loading" not in printed.out + printed.err
    assert "%|" not in printed.err


def test_a_missing_hub_model_names_the_cure_and_asks_no_network(cache: Path) -> None:
    with pytest.raises(ModelError, match=f"models pull {DEFAULT_MODEL}.*model_cache") as caught:
        loaded(DEFAULT_MODEL, cache)
    assert PINNED[DEFAULT_MODEL] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["nonsense", "huge-random", "a/b/c", "owner/", "http://host/model", "s3://bucket/model"]
)
def test_a_name_that_is_nothing_is_refused(name: str, cache: Path) -> None:
    with pytest.raises(ModelError, match="tiny-random"):
        loaded(name, cache)


def test_a_folder_that_is_not_there_is_named(cache: Path) -> None:
    with pytest.raises(ModelError, match="/no/such/model"):
        loaded("/no/such/model", cache)


@pytest.mark.parametrize(("value", "expected"), [(False, False), (True, True), (None, True)])
def test_the_planner_is_told_that_the_vae_computes_in_32_bits(folder: Path, value: bool | None, expected: bool) -> None:
    """Where the configuration does not say, diffusers takes `force_upcast` to be true."""
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text()) | {"force_upcast": value}
    path.write_text(json.dumps({name: held for name, held in config.items() if held is not None}))
    assert workload(resolve(str(folder))) == Workload(64, expected, prompts_known=True)
    assert not workload(resolve(str(folder)), prompts_known=False).prompts_known


def test_a_folder_that_is_no_model_is_named(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json is missing"):
        loaded(tmp_path, cache)


@pytest.mark.parametrize("channels", [8, 5, None])
def test_a_unet_of_other_channels_is_no_model_to_paint_with(folder: Path, cache: Path, channels: int | None) -> None:
    set_config(folder, "unet", in_channels=channels)
    for check in (lambda: loaded(folder, cache), lambda: verify(folder)):
        with pytest.raises(ModelError, match=f"takes {channels} channels.*{DEFAULT_MODEL}"):
            check()


def test_an_inpainting_model_of_another_family_is_refused(folder: Path) -> None:
    set_config(folder, "unet", addition_embed_type=None)
    with pytest.raises(ModelError, match="not SDXL's"):
        verify(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2", "tokenizer_2", "scheduler"])
def test_a_missing_component_is_named(folder: Path, cache: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(ModelError, match=f"has no {part}"):
        loaded(folder, cache)


def test_a_component_with_code_of_its_own_is_refused(folder: Path, cache: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["my_unet", "Unet"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "my_unet.py").write_text("raise SystemExit('foreign code ran')")
    with pytest.raises(ModelError, match="code of its own"):
        loaded(folder, cache)


def test_pickled_weights_are_never_opened(folder: Path, cache: Path) -> None:
    pickle = folder / "unet" / "diffusion_pytorch_model.bin"
    pickle.write_bytes(b"cos\nsystem\n(S'touch /tmp/inpaint_ops_was_here'\ntR.")
    with pytest.raises(ModelError, match=r"pickled weights.*remove"):
        verify(folder)
    assert loaded(folder, cache).native_size == 64  # the safetensors beside it are read
    (folder / UNET).unlink()
    with pytest.raises(ModelError, match="pickled weights only"):
        loaded(folder, cache)
    assert not Path("/tmp/inpaint_ops_was_here").exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("keep", [0, 4, 500, -1])
def test_truncated_weights_are_named(folder: Path, cache: Path, part: str, keep: int) -> None:
    path = next((folder / part).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=f"{path}.*cut short"):
        verify(folder)
    with pytest.raises(ModelError, match=f"{path}.*cut short"):
        loaded(folder, cache)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_weights_that_lack_a_tensor_are_refused(folder: Path, cache: Path, part: str) -> None:
    path = next((folder / part).glob("*.safetensors"))
    tensors = load_file(path)
    del tensors[sorted(tensors)[5]]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=str(folder)):
        loaded(folder, cache)


def test_weights_of_another_shape_are_refused(folder: Path, cache: Path) -> None:
    set_config(folder, "unet", cross_attention_dim=72)
    with pytest.raises(ModelError, match="cannot be loaded"):
        loaded(folder, cache)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / UNET).unlink()
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="00001-of-00002"):
        verify(folder)


def test_a_whole_model_verifies(folder: Path) -> None:
    verified = verify(folder)
    assert len(verified.files) == 4
    assert verified.bytes == sum((folder / name).stat().st_size for name in verified.files)
    assert (verified.native_size, verified.variant) == (64, None)


def test_the_fp16_variant_is_chosen_where_it_should_be(tmp_path: Path, cache: Path) -> None:
    import torch

    both = random_weights.build("tiny-random", tmp_path / "model", torch.float16)
    assert verify(both, dtype="float16").variant == "fp16"
    assert verify(both, dtype="float32").variant == "fp16"  # there is no other
    model = loaded(both, cache)
    assert model.pipe.unet.dtype == torch.float32
    plain = random_weights.ensure("tiny-random", cache)
    for name in verify(plain).files:
        shutil.copy(plain / name, both / name)
    assert verify(both, dtype="float16").variant == "fp16"
    assert verify(both, dtype="float32").variant is None


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
        "import sys; from pathlib import Path; from inpaint_ops.model.sources import pull; "
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
        model = loaded("owner/tiny", tmp_path / "cache", revision=revision)
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
        loaded("owner/tiny", tmp_path / "cache")
    hub.asked.clear()
    assert start_pull(tmp_path / "cache").wait(PATIENCE) == 0
    assert hub.asked == [UNET]
    loaded("owner/tiny", tmp_path / "cache")


def test_a_download_that_was_killed_goes_on_where_it_stopped(hub: type[Hub], tmp_path: Path) -> None:
    hub.stall_once.add(UNET)
    half = (hub.folder / UNET).stat().st_size // 2
    small_chunks = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 65536; "
    first = start_pull(tmp_path / "cache", before=small_chunks)
    blobs = tmp_path / "cache" / "hub" / "models--owner--tiny" / "blobs"

    def half_way() -> bool:
        assert first.poll() is None, first.communicate()
        return any(path.stat().st_size > half // 2 for path in blobs.glob("*.inpaint_ops-part"))

    wait_until(half_way)
    first.kill()
    first.communicate()
    second = start_pull(tmp_path / "cache")
    said = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, said
    assert hub.asked.count(UNET) == 2
    (resumed,) = (text for text in hub.ranges if text.startswith(UNET))
    assert half // 2 < int(resumed.split("bytes=")[1].rstrip("-")) <= half
    loaded("owner/tiny", tmp_path / "cache")


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
