"""A row's history in the viewer, in a real Chromium: its time, its attempts and who painted it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, expect

from inpaint_ops.records import EarlierAttempt, ErrorInfo
from inpaint_ops.report import results_jsonl, timings_parquet
from tests.support.browser import CHROMIUM, VIEWS, Watched, chromium, watching
from tests.support.served_pages import ServedPages, served
from tests.support.synthetic_run import EVIL, put_finished_run

__all__ = ["chromium", "served"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
RETRY_SHARD = "00000r0001_1f2e3d4c"


@pytest.fixture
def window(chromium: Browser, served: ServedPages) -> Iterator[Watched]:
    with watching(chromium, served.url.partition("/airflow")[0], **VIEWS["dark"]) as watched:
        yield watched


def test_a_row_that_was_done_again_shows_each_attempt_with_its_log(window: Watched, served: ServedPages) -> None:
    workspace = served.workspace
    _, records = put_finished_run(workspace, "again", 2, failed={2})
    first = EarlierAttempt(
        attempt="00000-0a1b2c3d", status="failed", finished_at=records[0].finished_at - timedelta(hours=1),
        error=ErrorInfo(type="WorkerDiedError", stage="worker", message=EVIL, permanent=False),
    )  # fmt: skip
    records[0] = records[0].model_copy(
        update={
            "retry": 1,
            "attempt": f"{RETRY_SHARD}-9f8e7d6c",
            "earlier": (first,),
            "source": None,
            "log": ("2026-11-22 22:00:19 WARNING worker 7 ended (killed by SIGKILL) while it held 1 row", EVIL),
        }
    )
    layout = workspace.layout("again")
    workspace.storage.put(layout.results, results_jsonl(records))
    workspace.storage.put(layout.timings, timings_parquet(records))
    page = window.page
    page.goto(f"{served.url}/runs/again/?row=1")
    history = page.locator(".history")
    expect(history.get_by_role("listitem")).to_have_count(2)
    earlier, last = (history.get_by_role("listitem").nth(number) for number in (0, 1))
    expect(earlier).to_contain_text("The run itself: failed, 2026-11-22 21:00:20 UTC")
    expect(earlier.locator(".why")).to_have_text(f"WorkerDiedError: {EVIL}")
    expect(last).to_contain_text("Retry 1: done, 2026-11-22 22:00:20 UTC")
    here = "/airflow/inpaint/runs/again"
    for item, shard in ((earlier, "00000"), (last, RETRY_SHARD)):
        expect(item.get_by_role("link")).to_have_attribute("href", f"{here}/shards/{shard}/log")
    logged = history.get_by_role("region", name="2 lines of log")
    expect(logged).to_have_text(re.compile("^2026-11-22 22:00:19 WARNING worker 7 ended"))
    expect(logged).to_contain_text(EVIL)
    expect(history).to_contain_text("Painted by process 1000 of gpu-1 on NVIDIA H200")
    expect(history.get_by_role("link", name="Trace of the run")).to_have_attribute("href", f"{here}/trace.json")
    bar = history.get_by_role("img")
    expect(bar).to_have_accessible_name(
        "Where the time went: Download 50 ms, Decode 20 ms, Denoise 1.5 s, VAE decode 200 ms, Encode image 100 ms, "
        "Upload 50 ms"
    )
    widths = {
        name: box["width"]
        for name in ("Denoise", "VAE decode")
        if (box := bar.locator(f"[data-stage='{name}']").bounding_box()) is not None
    }
    assert widths["Denoise"] == pytest.approx(7.5 * widths["VAE decode"], rel=0.1)
    page.goto(f"{served.url}/runs/again/?row=2")
    expect(history.get_by_role("listitem")).to_have_count(1)
    expect(history).to_contain_text("The run itself: failed")
    expect(history.get_by_role("img")).to_have_count(0)
    expect(history).not_to_contain_text("Painted by")
    expect(history.get_by_role("region")).to_have_count(0)
