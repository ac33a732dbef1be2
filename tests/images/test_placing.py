"""Where a picture lies on the canvas that the model paints, and what is cut out of it."""

from __future__ import annotations

import numpy as np
import pytest

from inpaint_ops.images import (
    composite,
    place,
    to_working,
    working_sizes,
)
from tests.support.pictures import (
    decode,
    file_of,
    mask_array,
    noise,
    smooth,
)


def test_the_canvas_sizes_of_sdxl_are_its_training_buckets() -> None:
    sizes = working_sizes(1024)
    assert len(sizes) == 40 and sizes[0] == (512, 2048) and sizes[-1] == (2048, 512)
    assert {(1024, 1024), (832, 1216), (1344, 768), (704, 1344)} <= set(sizes)
    assert all(
        width % 64 == 0 and height % 64 == 0 and abs(width * height / 2**20 - 1) < 0.1 for width, height in sizes
    )


@pytest.mark.parametrize("native", [32, 64, 128, 512, 768])
def test_the_canvas_sizes_of_other_models_are_scaled(native: int) -> None:
    sizes = working_sizes(native)
    assert (native, native) in sizes and len(set(sizes)) == len(sizes) <= 40
    assert all(width % 8 == 0 and height % 8 == 0 and 0.25 <= width / height <= 4 for width, height in sizes)


@pytest.mark.parametrize(("native", "multiple"), [(24, 8), (1024, 12), (1024, 0)])
def test_impossible_canvas_sizes_are_refused(native: int, multiple: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        working_sizes(native, multiple)


@pytest.mark.parametrize(
    ("size", "working"),
    [
        ((1024, 1024), (1024, 1024)),
        ((3000, 2000), (1216, 832)),
        ((1080, 1920), (768, 1344)),
        ((9000, 900), (2048, 512)),
    ],
)
def test_the_canvas_is_the_bucket_of_the_nearest_aspect(size: tuple[int, int], working: tuple[int, int]) -> None:
    placement = place(size, mask_array(size[1], size[0], (0, 0, 9, 9)), native=1024)
    assert placement.working == working and placement.box == (0, 0, *size)


def test_a_picture_of_the_canvas_size_is_neither_resized_nor_padded() -> None:
    source = decode(file_of(noise(64, 64)))
    mask = mask_array(64, 64, (8, 8, 16, 24))
    placement = place((64, 64), mask, native=64)
    assert placement.inner == (0, 0, 64, 64)
    rgb, working_mask = to_working(source, mask, placement)
    assert np.array_equal(rgb, source.rgb) and np.array_equal(working_mask, mask)


def test_a_line_of_one_pixel_survives_on_the_latent_grid() -> None:
    source = decode(file_of(smooth(1000, 1500)))
    mask = mask_array(1000, 1500, (701, 0, 702, 1000))
    _, working_mask = to_working(source, mask, place((1500, 1000), mask, native=64))
    assert working_mask[::8, ::8].max(axis=1).min() == 255


def test_padding_is_not_masked_and_repeats_the_edge() -> None:
    source = decode(file_of(smooth(40, 400)))
    mask = np.full((40, 400), 255, np.uint8)
    placement = place((400, 40), mask, native=256)
    rgb, working_mask = to_working(source, mask, placement)
    left, top, right, bottom = placement.inner
    assert top >= 8 and placement.working[1] - bottom >= 8 and (left, right) == (0, placement.working[0])
    assert (working_mask[:top] == 0).all() and (working_mask[-(-bottom // 8) * 8 :] == 0).all()
    assert (working_mask[top:bottom] == 255).all()
    assert np.array_equal(rgb[0], rgb[top]) and np.array_equal(rgb[-1], rgb[bottom - 1])


def test_faint_masks_count_where_nothing_reaches_half() -> None:
    source = decode(file_of(smooth(64, 64)))
    faint = mask_array(64, 64, (0, 0, 8, 8), value=30)
    both = np.maximum(faint, mask_array(64, 64, (32, 32, 40, 40), value=128))
    placement = place((64, 64), faint, native=64)
    assert np.array_equal(to_working(source, faint, placement)[1], mask_array(64, 64, (0, 0, 8, 8)))
    assert np.array_equal(to_working(source, both, placement)[1], mask_array(64, 64, (32, 32, 40, 40)))


def test_auto_crops_a_small_mask_in_a_large_picture_only() -> None:
    def box(size: tuple[int, int], hole: tuple[int, int, int, int]) -> tuple[int, ...]:
        return place(size, mask_array(size[1], size[0], hole), native=1024, crop="auto").box

    assert box((1500, 600), (10, 10, 40, 40)) == (0, 0, 1500, 600), "the picture is smaller than the canvas"
    assert box((3000, 2000), (100, 100, 2000, 1900)) == (0, 0, 3000, 2000), "the mask covers more than a quarter"
    assert box((3000, 2000), (100, 100, 1600, 1300)) == (0, 0, 3000, 2000), "a little more than a quarter"
    assert box((3000, 2000), (100, 100, 1500, 1100)) != (0, 0, 3000, 2000), "a little less than a quarter"
    x0, y0, x1, y1 = box((3000, 2000), (1500, 1000, 1600, 1100))
    assert (x1 - x0, y1 - y0) == (1024, 1024)
    assert x0 <= 1500 - 128 and x1 >= 1600 + 128


@pytest.mark.parametrize("crop", [0, 32, 5000])
def test_a_crop_is_never_enlarged_where_the_source_has_the_pixels(crop: int) -> None:
    mask = mask_array(2500, 2500, (2400, 30, 2410, 90))
    placement = place((2500, 2500), mask, native=1024, crop=crop)
    assert placement.box_size[0] >= placement.inner_size[0] and placement.box_size[1] >= placement.inner_size[1]
    assert placement.box[2] <= 2500 and placement.box[1] == 0
    assert (placement.box == (0, 0, 2500, 2500)) == (crop == 5000)


def test_a_crop_of_a_flat_picture_widens_instead_of_being_enlarged() -> None:
    placement = place((5000, 300), mask_array(300, 5000, (2000, 100, 2010, 110)), native=1024, crop=0)
    assert placement.box_size[0] > 1800 and placement.box_size[1] == 300
    assert placement.inner_size[0] < 1.15 * placement.box_size[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (70_000, 1), (9, 2), (40_000, 3)])
@pytest.mark.parametrize("crop", ["none", "auto", 4])
def test_the_smallest_and_the_longest_pictures_are_painted(size: tuple[int, int], crop: int) -> None:
    width, height = size
    source = decode(file_of(noise(height, width)))
    mask = mask_array(height, width, (width // 2, height // 2, width, height))
    placement = place(size, mask, native=64, crop=crop)
    rgb, working_mask = to_working(source, mask, placement)
    assert rgb.shape[:2] == working_mask.shape == placement.working[::-1] and working_mask.any()
    out = composite(source, mask, placement, np.full_like(rgb, 77))
    assert (out[mask == 255] == 77).all() and np.array_equal(out[mask == 0], source.pixels[mask == 0])


def test_shapes_that_do_not_belong_together_are_a_mistake_of_the_caller() -> None:
    source = decode(file_of(noise(64, 64)))
    mask = mask_array(64, 64, (8, 8, 16, 16))
    placement = place((64, 64), mask, native=64)
    with pytest.raises(ValueError, match="painted must be"):
        composite(source, mask, placement, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="another size"):
        composite(source, mask[:-1], placement, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="another size"):
        to_working(source, mask[:-1], placement)
    with pytest.raises(ValueError, match="the mask is 64x63"):
        place((64, 64), mask[:-1], native=64)
    with pytest.raises(ValueError, match="crop must be"):
        place((64, 64), mask, native=64, crop=-1)
    large = decode(file_of(noise(400, 400)))
    near = mask_array(400, 400, (8, 8, 16, 16))
    with pytest.raises(ValueError, match="beyond the placement"):
        composite(large, np.full_like(near, 255), place((400, 400), near, native=64, crop=0), noise(64, 64))
