"""Attention kernels: tried once per card, remembered, and really taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from inpaint_ops.cli.doctor import diagnose
from inpaint_ops.config import Settings
from inpaint_ops.device import describe
from inpaint_ops.model import attention, ledger, random_weights, tuned
from inpaint_ops.tuning import PROBES, Tuning

CPU = describe("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_card_is_tried_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = attention.probe(CPU, "float32", tmp_path)
    assert {"sdpa", "sdpa-flash", "sdpa-math"} <= set(first.seconds)
    assert "sdpa-cudnn" in first.why_not
    assert set(first.seconds) | set(first.why_not) == {"sdpa", "xformers", *attention.KERNELS}
    assert all(seconds > 0 for seconds in first.seconds.values())
    (remembered,) = (tmp_path / PROBES).iterdir()

    def never(*_: object) -> None:
        raise AssertionError("it was tried again")

    with monkeypatch.context() as patched:
        patched.setattr(attention, "measure", never)
        assert attention.probe(CPU, "float32", tmp_path) == first
        for other in ({"name": "another card"}, {"driver": "999"}):
            with pytest.raises(AssertionError, match="tried again"):
                attention.probe(CPU.model_copy(update=other), "float32", tmp_path)
    remembered.write_text("{half a fi")
    assert set(attention.probe(CPU, "float32", tmp_path).seconds) == set(first.seconds)


def test_a_kernel_whose_answer_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "probe_xformers", lambda kind, dtype: "")
    monkeypatch.setattr(attention, "_xformers", lambda tensors: tensors[0] * 3)
    found, lasting = attention.measure(CPU, "float32")
    assert lasting
    assert "off by" in found.why_not["xformers"]
    assert "xformers" not in found.seconds


@pytest.mark.parametrize("where", ["sdpa", "xformers"])
def test_what_memory_forbade_is_tried_again_by_the_next_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: object) -> float:
        raise RuntimeError("CUDA error: out of memory")

    with monkeypatch.context() as patched:
        if where == "sdpa":
            patched.setattr(attention, "_seconds", full)
        else:
            patched.setattr(attention, "probe_xformers", lambda *_: "xFormers does not work here: CUDA out of memory.")
        assert "out of memory" in attention.probe(CPU, "float32", tmp_path).why_not[where]
        assert not list((tmp_path / PROBES).iterdir())
    assert "out of memory" not in str(attention.probe(CPU, "float32", tmp_path).why_not)
    assert len(list((tmp_path / PROBES).iterdir())) == 1


def test_a_device_lost_while_kernels_are_tried_is_no_kernels_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> float:
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(attention, "_seconds", lost)
    with pytest.raises(torch.AcceleratorError):
        attention.probe(CPU, "float32", tmp_path)
    assert not list((tmp_path / PROBES).iterdir())


class Called(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def test_layouts_are_compared_on_a_block_with_its_group_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are timed on the same block, and the second with its kernels really in NHWC order."""
    seen = []

    def note(call: Callable[[], object], place: torch.device) -> float:
        with torch.no_grad(), Called() as called:
            output = call()
        assert {"aten::native_group_norm", "aten::convolution"} <= called.names
        assert isinstance(output, torch.Tensor)
        seen.append(output.is_contiguous(memory_format=torch.channels_last))
        return float(len(seen))

    monkeypatch.setattr(attention, "_seconds", note)
    found = attention.layout_seconds(torch.device("cpu"), "float32", side=8, channels=32)
    assert found == {"contiguous": 1.0, "channels_last": 2.0}
    assert seen == [False, True]


def test_what_an_older_version_has_kept_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attention.probe(CPU, "float32", tmp_path)
    monkeypatch.setattr(attention, "_PROBE_VERSION", 10**6)
    attention.probe(CPU, "float32", tmp_path)
    assert len(list((tmp_path / PROBES).iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / PROBES).write_text("a file where the folder should be")
    assert attention.probe(CPU, "float32", tmp_path).seconds["sdpa"] > 0


@pytest.mark.parametrize(
    ("wanted", "effective", "matches"),
    [
        ("sdpa-math", "sdpa-math", True),
        ("sdpa-flash", "sdpa-flash", True),
        ("sdpa-cudnn", "sdpa-flash", False),
        ("sdpa", "sdpa", True),
    ],
)
def test_the_ledger_has_the_kernel_that_pytorch_takes(wanted: str, effective: str, matches: bool) -> None:
    pipe = random_weights.instantiate("tiny-random")
    tuning = Tuning.model_validate({"attention": wanted})
    assert tuned.apply(pipe, tuning, CPU) == {}
    entry = {entry.name: entry for entry in ledger.inspect(pipe, tuning, (64, 64))}["attention"]
    assert (entry.requested, entry.effective, entry.matches) == (wanted, effective, matches)
    if not matches:
        assert "no such kernel" in entry.reason


def test_the_kernel_named_is_the_one_that_runs() -> None:
    """Read off the profiler: what ran, not what was asked for."""
    query = torch.randn(1, 2, 64, 64)
    ran = {}
    for name in ("sdpa-flash", "sdpa-math"):
        with attention.preferring(name), torch.profiler.profile() as profile:
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
        ran[name] = {event.key for event in profile.key_averages()}
    assert any("flash" in event for event in ran["sdpa-flash"])
    assert not any("flash" in event for event in ran["sdpa-math"])
    assert any("math" in event or "bmm" in event for event in ran["sdpa-math"])


def test_doctor_tells_what_workers_have_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    settings = Settings(model="tiny-random", scratch=tmp_path)

    def said() -> str:
        return next(check.detail for check in diagnose(settings) if check.name == "attention")

    assert "not tried yet" in said()
    found = attention.probe(CPU, "float32", tmp_path)
    assert CPU.name in said()
    assert f"{found.seconds['sdpa'] * 1e3:.3g} ms" in said()
    assert "sdpa-cudnn" in said()
