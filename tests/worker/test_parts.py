"""Rows whose mask has far regions, through the real worker: each region is painted, timed and joined by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inpaint_ops.protocol import Done, End, Failed, Item, Ready
from inpaint_ops.worker.parts import seed_of
from tests.support.worker_talk import Talk, fork, job, picture, pixels

__all__ = ["fork"]

FAR = ((10, 12, 30, 40), (560, 380, 590, 400))


def with_regions(folder: Path, row: int, boxes: tuple[tuple[int, int, int, int], ...], **options: Any) -> Item:
    seed = {"seed": options.pop("seed")} if "seed" in options else {}
    item = picture(folder, row, (640, 420), **options).model_copy(update=seed)
    mask = np.zeros((420, 640), np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
    Image.fromarray(mask).save(item.mask)
    return item


def test_far_regions_are_painted_one_by_one_with_timings_of_their_own(fork: Callable[[], Talk], tmp_path: Path) -> None:
    rows = [
        with_regions(tmp_path, 1, FAR, crop="regions"),
        with_regions(tmp_path, 2, FAR[:1], crop="regions"),
        with_regions(tmp_path, 3, FAR[:1], crop="auto", seed=2),
        with_regions(tmp_path, 4, FAR, crop="regions", blend="poisson", grain="match", mask_dilate=2, seed=2**63 - 1),
        with_regions(tmp_path, 5, FAR, crop="none"),
    ]
    Path(rows[2].image).write_bytes(Path(rows[1].image).read_bytes())
    talk = fork()
    talk.send(job(tmp_path), *rows, End())
    talk.until(lambda: len(talk.all(Done) + talk.all(Failed)) == len(rows))
    assert not talk.all(Failed)
    [ready] = talk.all(Ready)
    done = {event.row: event for event in talk.all(Done)}

    one = done[1]
    assert len(one.regions) == 2 and one.joining is None and one.batch.size == 2
    assert any("2 far regions were painted one by one" in sentence for sentence in one.conversions)
    for region, box in zip(one.regions, FAR, strict=True):
        x0, y0, x1, y1 = region.box
        assert x0 <= box[0] and y0 <= box[1] and x1 >= box[2] and y1 >= box[3]
        assert (x1 - x0) * (y1 - y0) < 640 * 420 / 4 and max(region.working_size) <= 2 * ready.native_size
        assert region.timings.denoise and region.timings.denoise > 0
    batches = {region.batch.id: region.timings.denoise for region in one.regions if region.batch}
    assert one.timings.denoise == pytest.approx(sum(seconds or 0 for seconds in batches.values()))
    before, after = pixels(rows[0].image), pixels(one.output)
    masked = pixels(rows[0].mask) > 0
    assert np.array_equal(before[~masked], after[~masked])
    ys, xs = np.nonzero(masked)
    assert one.mask_area is not None
    assert one.mask_area.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert one.mask_area.share == pytest.approx(masked.mean())
    for x0, y0, x1, y1 in FAR:
        assert (before[y0:y1, x0:x1] != after[y0:y1, x0:x1]).any(axis=2).mean() > 0.9

    assert done[2].regions == () and done[2].joining is not None
    assert np.array_equal(pixels(done[2].output), pixels(done[3].output)), "one region is cropped as by auto"
    assert [region.joining.blend for region in done[4].regions] == ["poisson", "poisson"]
    assert all(region.joining.grain_added is not None for region in done[4].regions)
    assert done[5].regions == ()


@pytest.mark.parametrize("crop", ["none", "regions"])
def test_the_patch_alone_over_the_source_is_the_image_and_the_mask_is_what_changed(
    fork: Callable[[], Talk], tmp_path: Path, crop: str
) -> None:
    wanted = {"side_products": ("patch", "mask", "preview"), "blend": "feather", "mask_blur": 2.0}
    rows = [with_regions(tmp_path, 1, FAR, crop=crop, **wanted)]
    talk = fork()
    talk.send(job(tmp_path, provenance="mark"), *rows, End())
    talk.until(lambda: talk.all(Done) + talk.all(Failed))
    [one] = talk.all(Done)
    assert (one.side_product_kinds, one.side_product_problem) == (wanted["side_products"], "")
    assert len(one.regions) == (2 if crop == "regions" else 0)
    before, after = pixels(rows[0].image).astype(int), pixels(one.output).astype(int)
    with Image.open(tmp_path / "side-product-patch") as patch, Image.open(tmp_path / "side-product-mask") as mask:
        layer, weights = np.asarray(patch).astype(int), np.asarray(mask).astype(int)
        assert b"compositeWithTrainedAlgorithmicMedia" in patch.info["xmp"]
    assert weights.shape == before.shape[:2] and not (before != after)[weights == 0].any()
    x0, y0, x1, y1 = one.mask_area.box
    part, share = before[y0:y1, x0:x1], layer[..., 3:]
    assert np.array_equal(share[..., 0], weights[y0:y1, x0:x1]) and 0 < (share % 255 > 0).sum() < share.size
    assert np.array_equal((part * (255 - share) + layer[..., :3] * share + 127) // 255, after[y0:y1, x0:x1])
    with Image.open(tmp_path / "side-product-preview") as preview:
        assert preview.size == (640, 848) and b"compositeWithTrainedAlgorithmicMedia" in preview.info["xmp"]


def test_a_file_beside_an_image_that_cannot_be_written_costs_no_row(fork: Callable[[], Talk], tmp_path: Path) -> None:
    (tmp_path / "side-product-mask").mkdir()
    row = with_regions(tmp_path, 1, FAR[:1], side_products=("patch", "mask", "preview"))
    talk = fork()
    talk.send(job(tmp_path, provenance="off"), row, End())
    talk.until(lambda: talk.all(Done) + talk.all(Failed))
    [one] = talk.all(Done)
    assert one.side_product_kinds == ("patch", "preview")
    assert one.side_product_problem.startswith("mask: IsADirectoryError: ")
    with Image.open(tmp_path / "side-product-patch") as patch:
        assert "xmp" not in patch.info


def test_each_region_has_a_seed_of_its_own(tmp_path: Path) -> None:
    item = with_regions(tmp_path, 1, FAR, seed=2**63 - 1)
    assert [seed_of(item, number) for number in range(3)] == [2**63 - 1, 0, 1]
