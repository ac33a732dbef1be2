"""What a worker notes of itself: bounds, a device's lanes, and what happens where torch's profiler fails."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inpaint_ops.protocol import PROFILE
from inpaint_ops.worker import profiling
from inpaint_ops.worker.profiling import Profile


class Event:
    """As kineto's: a kernel of a GPU's stream, or an operator of the processor."""

    def __init__(self, name: str, start: int, duration: int, *, device: str = "CPU", stream: int = 0) -> None:
        self.name, self.start_ns, self.duration_ns = (lambda: name), (lambda: start), (lambda: duration)
        self.device_type, self.device_index = (lambda: f"DeviceType.{device}"), (lambda: 0)
        self.device_resource_id = lambda: stream


def none() -> list[Any]:
    return []


def read(profile: Profile, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    profile.write(folder)
    found = json.loads(gzip.decompress((folder / PROFILE).read_bytes()))
    return found["traceEvents"], found["otherData"]


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def profile(warned: list[str]) -> Profile:
    return Profile(True, warned.append)


def test_two_batches_are_looked_into_and_the_longest_operators_are_kept(
    profile: Profile, warned: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "MAX_OPERATORS", 3)
    values = torch.ones(200, 200)
    for number in range(3):
        with profile.batch([number + 1], 2, none):
            (values @ values).sum().sqrt().exp().log()
    events, about = read(profile, tmp_path)
    assert not warned and about["batches"] == 3 and len(about["looked_into"]) == 2
    operators = [one for one in events if one.get("cat") == "operator"]
    assert len(operators) == 6 and about["left_out"]["operators"] > 4
    assert {"aten::matmul", "aten::mm"} & {one["name"] for one in operators}
    paints = [one for one in events if one.get("name") == "paint"]
    assert [one["args"] for one in paints] == [{"rows": 1, "first": number} for number in (1, 2, 3)]
    ends = [(one["ts"], one["ts"] + one["dur"]) for one in paints[:2]]
    assert all(any(start <= one["ts"] <= end for start, end in ends) for one in operators)


def test_the_clocks_are_read_together_though_a_thread_is_held_up_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(100)  # of the first reading, which takes one; the others take none
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: float(min(next(seconds), 101)))
    monkeypatch.setattr(profiling.time, "time_ns", itertools.count(1).__next__)
    assert profiling._now() == (101.0, 2)


def test_spans_are_bounded_and_threads_are_named(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "MAX_SPANS", 3)

    def work() -> None:
        for number in range(4):
            with profile.span("decode", row=number):
                pass

    thread = threading.Thread(target=work, name="decode_0")
    thread.start()
    thread.join()
    with pytest.raises(ValueError, match="mine"), profile.span("encode"):
        raise ValueError("mine")
    events, about = read(profile, tmp_path)
    assert len([one for one in events if one["ph"] == "X"]) == 3 and about["left_out"]["spans"] == 2
    assert "decode_0" in {one["args"]["name"] for one in events if one["name"] == "thread_name"}


def test_a_devices_kernels_lie_in_lanes_of_their_own_by_stream(profile: Profile, tmp_path: Path) -> None:
    at = profile._zero_ns + 1_000_000
    profile._keep(
        [Event("aten::conv2d", at, 50_000), Event("sgemm", at + 9_000, 400_000, device="CUDA", stream=7),
         Event("Memcpy HtoD", at + 5_000, 2_000, device="CUDA", stream=14)],
        profile._zero,
    )  # fmt: skip
    events, about = read(profile, tmp_path)
    kernels = {one["name"]: one for one in events if one.get("cat") == "kernel"}
    assert {name: one["tid"] for name, one in kernels.items()} == {"sgemm": 7, "Memcpy HtoD": 14}
    (operator,) = (one for one in events if one.get("cat") == "operator")
    assert len({one["pid"] for one in kernels.values()}) == 1 and operator["pid"] != kernels["sgemm"]["pid"]
    named = {(one["pid"], one["tid"]): one["args"]["name"] for one in events if one["name"] == "thread_name"}
    assert named[kernels["sgemm"]["pid"], 7] == "stream 7"
    assert kernels["sgemm"]["dur"] == 400 and kernels["sgemm"]["ts"] - operator["ts"] == pytest.approx(9, abs=0.2)
    assert about["looked_into"] == ["batch 0: 1 operators, 2 on a device"]


def test_operators_of_another_clock_are_put_where_their_batch_began(profile: Profile, tmp_path: Path) -> None:
    profile._keep([Event("first", 5_000_000_000, 1_000), Event("second", 5_000_002_000, 1_000)], profile._zero + 3.0)
    events, _ = read(profile, tmp_path)
    starts = {one["name"]: one["ts"] for one in events if one.get("cat") == "operator"}
    assert starts["first"] == pytest.approx(3e6, abs=1)
    assert starts["second"] - starts["first"] == pytest.approx(2, abs=0.2)


def test_a_batch_of_very_many_steps_is_not_looked_into(profile: Profile, tmp_path: Path) -> None:
    with profile.batch([1], profiling.MOST_STEPS + 1, none):
        torch.ones(2).exp()
    events, about = read(profile, tmp_path)
    assert not [one for one in events if one.get("cat") == "operator"] and "over 60 steps" in about["looked_into"][0]


@pytest.mark.parametrize("where", ["start", "stop", "write"])
def test_a_profiler_that_fails_is_one_warning_and_stops_nothing(
    profile: Profile, warned: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no\nkineto")

    painted: list[int] = []
    if where != "write":
        monkeypatch.setattr(torch.profiler.profile, where, fails)
    for number in (1, 2, 3):
        with profile.batch([number], 2, none):
            painted.append(number)
    profile.write(tmp_path / "nowhere" if where == "write" else tmp_path)
    assert painted == [1, 2, 3] and len(warned) == 1
    assert warned[0].startswith("profile: ") and "\n" not in warned[0]
    assert (tmp_path / PROFILE).exists() is (where != "write")


def test_what_a_batch_fails_with_is_not_hidden(profile: Profile, tmp_path: Path) -> None:
    def paints(error: Callable[[], Exception]) -> None:
        with profile.batch([1], 2, none):
            raise error()

    with pytest.raises(KeyError):
        paints(KeyError)
    assert [one for one in read(profile, tmp_path)[0] if one.get("name") == "paint"]


def test_without_a_profile_nothing_is_noted_or_written(tmp_path: Path, warned: list[str]) -> None:
    off = Profile(False, warned.append)
    with off.span("decode"), off.batch([1], 2, none):
        pass
    off.write(tmp_path)
    assert not list(tmp_path.iterdir()) and not warned
