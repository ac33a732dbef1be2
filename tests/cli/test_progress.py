"""The bars of `inpaint-ops run`: short however long a phase's text is, and no forecast before there is a pace."""

from __future__ import annotations

import io

import pytest

from inpaint_ops.cli.progress import progress_bars
from inpaint_ops.planning import Shard
from inpaint_ops.supervisor import Progress

LEASE = "lease: waiting for GPU 0, which process 4711 of user painter on this machine has held since 22:00:00 UTC"
SHARDS = [Shard(name=f"{index:05d}", rows=50, first_row=50 * index + 1, last_row=50 * index + 50) for index in range(2)]


class Terminal(io.StringIO):
    """Standard error of somebody who looks."""

    def isatty(self) -> bool:
        return True


def progress(phase: str, *, shard: int = 0, done: int = 0, failed: int = 0, rate: float | None = None) -> Progress:
    return Progress(f"{shard:05d}", 50, done, failed, phase, rate, None)


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Within the test, since pytest sets standard error anew when a test begins."""
    made = Terminal()
    monkeypatch.setattr("sys.stderr", made)
    return made


@pytest.mark.parametrize("devices", [1, 2])
def test_a_long_phase_stands_on_a_line_of_its_own_once(monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    shown = terminal(monkeypatch)
    with progress_bars(100, 0, SHARDS, devices, hidden=False) as show:
        for _ in range(3):
            show(0, progress(LEASE))
    assert shown.getvalue().count("process 4711") == 1
    assert f"inpaint-ops: {LEASE}\n" in shown.getvalue()
    assert ", lease]" in shown.getvalue()


def test_no_time_is_forecast_before_the_first_image(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    with progress_bars(100, 0, SHARDS, 1, hidden=False) as show:
        show(0, progress("load: demo"))
        loading = shown.getvalue()
        show(0, progress("painting", done=10, failed=2, rate=0.5))
        assert shown.getvalue().endswith("painting, 0.50 images/s, 2 min 56 s left, 2 failed]")
    assert loading.endswith(", load: demo]")
    assert "left" not in loading and "?" not in loading


def test_the_paces_of_several_devices_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    with progress_bars(100, 0, SHARDS, 2, hidden=False) as show:
        show(0, progress("painting", done=10, rate=0.5))
        show(1, progress("painting", shard=1, done=10, rate=1.5))
        assert "2.00 images/s, 40 s left" in shown.getvalue()


def test_hidden_bars_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    with progress_bars(100, 0, SHARDS, 1, hidden=True) as show:
        show(0, progress(LEASE))
    assert shown.getvalue() == ""
