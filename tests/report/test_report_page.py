"""`report.html` opens anywhere, asks nothing of any network, runs nothing, and shows what a person needs first."""

from __future__ import annotations

import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from inpaint_ops.images.preview import mask_layer
from inpaint_ops.records import (
    Batch,
    ErrorInfo,
    LedgerEntry,
    Measures,
    ModelIdentity,
    Output,
    Record,
    Timings,
    duration_in_words,
)
from inpaint_ops.report import GalleryItem, choose_gallery, facts, mask_overlay, render_page
from inpaint_ops.report.page import PAGE_BYTES, _bytes, _figures
from inpaint_ops.tallies.tally import MOST_FLAGGED
from tests.support.simulated_run import Run, a_run, record, worker_report

VOID = {"meta", "link", "img", "br"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onmouseover='x' {{ 7*7 }} &amp; ]]> </style></title>"


class Page(HTMLParser):
    """A page taken apart; every tag that is opened must be closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def thumbnail(seed: int = 0, size: tuple[int, int] = (256, 192)) -> bytes:
    """As large as a photograph's: smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(sink, "JPEG", quality=80)
    return sink.getvalue()


def a_gallery(records: list[Record]) -> list[GalleryItem]:
    return [
        GalleryItem(r, thumbnail(r.row), thumbnail(r.row + 1), thumbnail(r.row + 2)) for r in choose_gallery(records)
    ]


def page_of(written: Run, gallery: list[GalleryItem] | None = None, **options: object) -> Page:
    html = render_page(written.summary(**options), written.records, gallery or [], workers=written.workers)
    assert len(html.encode()) < PAGE_BYTES
    return Page(html)


def check_closed(page: Page) -> None:
    """Nothing runs, and nothing is asked for that the page does not hold."""
    forbidden = {
        "script",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "video",
        "audio",
        "source",
        "use",
        "image",
        "foreignobject",
    }
    assert not forbidden & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "xlink:href", "action", "poster", "background"):
                local = re.fullmatch(
                    r"data:(image/(jpeg|png);base64,[A-Za-z0-9+/=]+|,)|#[a-z]+|[a-z]+\.(json|jsonl|parquet)|images/[\w.%~-]+",
                    value or "",
                )
                assert local, (tag, name, (value or "")[:80])
            if name == "style":
                assert "url" not in (value or "")
    [policy] = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "script" not in policy


def a_full_run() -> Run:
    run = a_run(60, workers=2)
    error = ErrorInfo(
        type="MaskError", stage="decode", message="mask: 8x8, the image is 9x9: resize it", permanent=True
    )
    run.records += [
        record(61, "failed"), record(62, "failed", error=error), record(63, "rejected"),
        record(64, conversions=("16 bits to 8",)), record(65, "failed"),
    ]  # fmt: skip
    return run


def test_a_page_holds_all_that_it_needs_and_runs_nothing() -> None:
    run = a_full_run()
    html = render_page(run.summary(), run.records, a_gallery(run.records), workers=run.workers)
    check_closed(Page(html))
    assert "http://" not in html and "https://" not in html
    assert "@import" not in html and "url(" not in html


def test_a_page_says_first_what_matters() -> None:
    run = a_full_run()
    text = " ".join(
        page_of(run, a_gallery(run.records), rows=66, row_numbers=range(1, 67), failure_threshold=0.01).text.split()
    )
    places = [
        "INVALID",
        "1 of 66 rows has no record: line 66.",
        "4 of 66 rows failed or were rejected",
        "Numbers",
        "cold start included",
        "Failures and their cures",
        "Where the time went",
        "Gallery",
        "Seconds by stage",
        "Slowest rows",
        "Tuning",
        "Machine",
        "Conversions",
    ]
    found = [text.index(words) for words in places]
    assert found == sorted(found)
    for words in ("row 61: truncated", "mask: 8x8, the image is 9x9", "What to do:", "16 bits to 8", "≠ no", "11 GiB",
                  "not installed", "NVIDIA L4", "Peak memory", "Load the model", "run it as it is"):  # fmt: skip
        assert words in text, words
    assert "RANDOM WEIGHTS" not in text


def test_a_good_run_says_so() -> None:
    text = " ".join(page_of(a_run(8)).text.split())
    assert "VALID All 8 rows are done." in text
    assert "INVALID" not in text
    assert "Failures and their cures" not in text


def test_random_weights_are_announced_exactly_when_they_are() -> None:
    run = a_run(8)
    assert "RANDOM WEIGHTS" not in page_of(run).text
    random_model = ModelIdentity(name="tiny-random", random_weights=True)
    run.workers = [report.model_copy(update={"model": random_model}) for report in run.workers]
    text = page_of(run, a_gallery(run.records)).text
    assert "RANDOM WEIGHTS" in text
    assert text.count("The weights are random: the images mean nothing.") == 2  # the banner and the gallery


def test_what_users_wrote_stays_text() -> None:
    evil = record(
        1,
        id=EVIL,
        prompt=EVIL,
        conversions=(EVIL,),
        timings=Timings(denoise=1.0),
        batch=Batch(id=EVIL, size=1),
        output=Output(
            uri=f"s3://o/images/{EVIL}/javascript:alert(1)", sha256="0", bytes=1, width=1, height=1, format="png"
        ),
    )
    failed = record(
        2, "failed", id=EVIL + "2", error=ErrorInfo(type=EVIL, stage="worker", message=EVIL, permanent=False)
    )
    run = Run([evil, failed], [])
    ledger = (LedgerEntry(name=EVIL, requested=EVIL, effective=EVIL, matches=False, reason=EVIL, measured={EVIL: 1.0}),)
    model = ModelIdentity(name=EVIL, revision=EVIL, dtype=EVIL, random_weights=True, digest=EVIL)
    template = a_run(1).workers[0]
    run.workers = [
        worker_report(template.worker.model_copy(update={"host": EVIL}), 9, ledger=ledger, model=model, exit=EVIL,
                      shard=EVIL, versions={EVIL: EVIL}, warnings=(EVIL,),
                      device=template.device.model_copy(update={"name": EVIL, "driver": EVIL, "capability": EVIL}))
    ]  # fmt: skip
    page = page_of(run, [GalleryItem(evil, thumbnail(), thumbnail(), thumbnail())], run=EVIL, manifest=EVIL,
                   manifest_sha256=EVIL, job={EVIL: EVIL, "nested": {EVIL: [EVIL]}})  # fmt: skip
    check_closed(page)
    assert page.text.count("<script>alert(1)</script>") >= 20
    assert "{{ 7*7 }}" in page.text
    assert [a["href"] for a in page.all("a") if (a["href"] or "").startswith("images/")] == [
        "images/javascript%3Aalert%281%29"
    ]
    assert evil.output is not None
    named = evil.model_copy(update={"output": evil.output.model_copy(update={"name": 'a b/"x".png'})})
    page = page_of(run, [GalleryItem(named, thumbnail(), thumbnail(), thumbnail())])
    assert "images/a%20b/%22x%22.png" in [a["href"] for a in page.all("a")], "below the folders that are kept"
    assert all("onerror" not in attributes for attributes in page.all("img"))


def test_a_page_of_ten_thousand_rows_stays_below_two_megabytes() -> None:
    run = a_run(10_000, workers=4)
    message = "the image is truncated: " + "x" * 1900
    run.records[::7] = [
        record(
            r.row, "failed", error=ErrorInfo(type=f"Error{r.row % 40}", stage="decode", message=message, permanent=True)
        )
        for r in run.records[::7]
    ]
    run.records = [r.model_copy(update={"prompt": "p" * 4000, "conversions": (f"kind {r.row}",)}) for r in run.records]
    gallery = a_gallery(run.records)
    assert len(gallery) == 24
    assert sum(len(item.source) for item in gallery) / 24 > 10_000, "a thumbnail of a real size"
    page = page_of(run, gallery)
    check_closed(page)
    assert len(page.all("img")) == 72
    text = " ".join(page.text.split())
    assert "more rows are not shown; they are in results.jsonl" in text
    assert "30 more kinds of failure are not shown" in text
    assert "kinds are not shown" in text


def test_thumbnails_that_do_not_fit_are_left_out_and_counted() -> None:
    run = a_run(40)
    large = b"\xff\xd8\xff" + bytes(40_000)
    items = [GalleryItem(r, large, large, large) for r in choose_gallery(run.records)]
    page = page_of(run, items)
    shown = len(page.all("img")) // 3
    assert 8 < shown < 24
    assert [page.text.index(f"photo-{row} ") for row in (1, 40)], "the run's first and last"
    assert f"{24 - shown} more chosen images are not shown: the page would grow too large." in page.text


def test_the_page_can_be_used_without_eyes() -> None:
    page = page_of(a_full_run(), a_gallery(a_full_run().records))
    assert [attributes.get("lang") for attributes in page.all("html")] == ["en"]
    assert all(image["alt"] for image in page.all("img"))
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert len(ids) == sum("id" in attributes for _, attributes in page.tags), "ids are unique"
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, next(iter(ids))) in ids
    for chart in page.all("svg"):
        assert chart.get("aria-hidden") == "true" or (chart["role"] == "img" and chart["aria-labelledby"])
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert len(page.all("main")) == 1


def test_the_bars_fill_their_width() -> None:
    page = page_of(a_run(40))
    widths = [float((r["width"] or "").rstrip("%")) for r in page.all("rect") if "x" in r]
    assert sum(widths) == pytest.approx(200, abs=0.1)  # two bars


def test_a_run_without_anything_still_has_a_page() -> None:
    check_closed(page_of(Run([], []), rows=3))
    check_closed(page_of(Run([record(1, "rejected")], [])))


def test_a_thumbnail_is_an_image() -> None:
    with pytest.raises(ValueError, match="neither JPEG nor PNG"):
        GalleryItem(record(1), b"<svg onload='x'>", thumbnail(), thumbnail())


def test_the_mask_lies_over_the_source() -> None:
    def png(level: int | np.ndarray) -> bytes:
        sink = io.BytesIO()
        pixels = level if isinstance(level, np.ndarray) else np.full((32, 64), level, np.uint8)
        Image.fromarray(pixels).save(sink, "PNG")
        return sink.getvalue()

    half = np.zeros((16, 32), np.uint8)
    half[:, 16:] = 255
    for invert, kept in ((False, slice(0, 24)), (True, slice(40, 64))):
        with Image.open(
            io.BytesIO(mask_overlay(png(80), mask_layer(png(half), 256, max_pixels=10**6, invert=invert)))
        ) as opened:
            shown = np.asarray(opened).astype(int)
        assert shown.shape == (32, 64, 3)
        assert abs(shown[:, kept] - 80).max() < 12
        red = shown[:, :, 0] - shown[:, :, 1]
        assert (red > 60).sum() > 32 * 24


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.0123, "12.3 ms"), (0.9999, "1 s"), (4.567, "4.57 s"), (59.96, "1 min 00 s"), (252, "4 min 12 s"),
     (7383, "2 h 03 min"), (360_000, "100 h 00 min"), (3599.7, "1 h 00 min")],
)  # fmt: skip
def test_durations_read_as_people_say_them(seconds: float, said: str) -> None:
    assert duration_in_words(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (0.00123, "0.00123"), (1.5, "1.5"), (999.6, "1000"), (1234.5, "1,234"), (0.1 + 0.2, "0.3")],
)
def test_figures_have_no_exponent(number: float, said: str) -> None:
    assert _figures(number) == said


def test_bytes_have_their_unit() -> None:
    assert [_bytes(count) for count in (0, 1536, 11 * 2**30)] == ["0 bytes", "1.5 KiB", "11 GiB"]


def test_the_page_shows_the_histograms_of_the_measures_and_the_flagged_rows() -> None:
    records = [
        record(number, change=30.0, measures=Measures(seam_contrast=1 + number % 7 / 50, flatness=0.1))
        for number in range(1, 60)
    ]
    odd = [
        record(number, flags=("seam_contrast_high",), measures=Measures(seam_contrast=9)) for number in range(60, 95)
    ]
    run = Run([*records, *odd], [])
    page = Page(render_page(run.summary(), run.records))
    check_closed(page)
    assert len([svg for svg in page.all("svg") if svg.get("class") == "histogram"]) == 3
    assert "Seam contrast high (9)" in page.text and f"{35 - MOST_FLAGGED} more flagged rows" in page.text
    assert len(facts(run.records).flagged) == MOST_FLAGGED
    [seam] = [one for one in facts(run.records).measures if one.label == "Seam contrast"]
    assert seam.flagged == 35 and sum(bar.count for bar in seam.bars) == 94
    assert sum(bar.count for bar in seam.bars if bar.is_outside) == 35
