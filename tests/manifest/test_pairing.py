"""Images and masks matched by stem; what has no partner is named."""

from __future__ import annotations

from typing import Any

import pytest

from inpaint_ops.errors import ConfigError
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest.pairing import pair

IMAGES = [parse(f"s3://b/i/{name}") for name in ("b.jpg", "a.png", "lonely.png", "notes.txt")]
MASKS = [parse(f"s3://b/m/{name}") for name in ("a_mask.png", "b.png", "orphan.png")]


def test_stems_pair_and_what_has_no_partner_is_named() -> None:
    paired = pair(IMAGES, MASKS, prompt="a cup")
    assert [(row["image"], row["mask"]) for row in paired.rows] == [
        ("s3://b/i/a.png", "s3://b/m/a_mask.png"),
        ("s3://b/i/b.jpg", "s3://b/m/b.png"),
    ]
    assert paired.images_alone == ("s3://b/i/lonely.png",)
    assert paired.masks_alone == ("s3://b/m/orphan.png",)


def test_a_clash_concerns_its_files_alone() -> None:
    paired = pair([*IMAGES, parse("s3://b/i/b.png")], MASKS, prompt="x")
    assert [row["image"] for row in paired.rows] == ["s3://b/i/a.png"]
    assert len(paired.clashes) == 1
    assert all(name in paired.clashes[0] for name in ("s3://b/i/b.jpg", "s3://b/i/b.png", "s3://b/m/b.png"))


def keys(prefix: str, *names: str) -> list[Location]:
    return [parse(f"s3://b/{prefix}/{name}") for name in names]


def matched(images: list[str], masks: list[str], **options: Any) -> dict[str, str]:
    roots = (parse("s3://b/i/"), parse("s3://b/m/"))
    paired = pair(keys("i", *images), keys("m", *masks), prompt="x", roots=roots, **options)
    assert not paired.clashes
    return {row["image"].removeprefix("s3://b/i/"): row["mask"].removeprefix("s3://b/m/") for row in paired.rows}


def test_the_relative_path_pairs_before_the_stem() -> None:
    found = matched(["one/a.jpg", "two/a.jpg", "c.jpg"], ["one/a.png", "two/a_mask.png", "deep/c.png"])
    assert found == {"one/a.jpg": "one/a.png", "two/a.jpg": "two/a_mask.png", "c.jpg": "deep/c.png"}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.jpg", "A.PNG"), ("a.jpg", "a-mask.png"), ("a.jpg", "a Mask.png"), ("a.jpg", "mask_a.png"),
        ("a.jpg", "a.masks.png"), ("caf\u00e9.jpg", "cafe\u0301.png"), ("Stra\u00dfe.jpg", "STRASSE_mask.png"),
    ],
)  # fmt: skip
def test_marks_case_and_forms_of_unicode_do_not_keep_a_pair_apart(image: str, mask: str) -> None:
    assert matched([image], [mask]) == {image: mask}


def test_a_suffix_a_glob_and_a_template_choose() -> None:
    assert matched(["a.jpg"], ["a-hole.png", "b.png"], mask_suffix="-hole") == {"a.jpg": "a-hole.png"}
    assert matched(["x/a.jpg", "x/b.jpg"], ["a.png", "b.png"], pattern="b*") == {"x/b.jpg": "b.png"}
    roots = (parse("s3://b/i/"), parse("s3://b/m/"))
    paired = pair(keys("i", "x/a.jpg"), keys("m", "a.png"), prompt="p", roots=roots, id_template="{path}-{n}")
    assert [row["id"] for row in paired.rows] == ["x-a-1"]
    with pytest.raises(ConfigError, match=r"it may hold \{stem\}"):
        pair(keys("i", "a.jpg"), keys("m", "a.png"), prompt="p", roots=roots, id_template="{stem.__class__}")


def test_masks_beside_their_photos_pair_from_one_folder() -> None:
    both, root = keys("i", "x.jpg", "x_mask.png", "y.jpg", "sub/z.jpg", "sub/z_mask.png"), parse("s3://b/i/")
    paired = pair(both, both, prompt="p", roots=(root, root))
    assert [row["mask"] for row in paired.rows] == ["s3://b/i/sub/z_mask.png", "s3://b/i/x_mask.png"]
    assert paired.images_alone == ("s3://b/i/y.jpg",)


def test_clutter_is_ignored_and_what_is_not_read_is_named() -> None:
    images = keys("i", "a.png", "._a.png", ".DS_Store", "Thumbs.db", "b.cr2", "c.heic", "d.gif")
    paired = pair(images, keys("m", "a.png", "._a.png"), prompt="p")
    assert [row["image"] for row in paired.rows] == ["s3://b/i/a.png"]
    assert paired.not_read == ("s3://b/i/b.cr2",)
    assert paired.images_alone == ("s3://b/i/c.heic", "s3://b/i/d.gif")
    assert not paired.masks_alone


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("ab/3f9c", "ab/3f9c"), ("sku 1", "sku 1_mask.png"), ("stereo.MPO", "stereo.png"),
        ("README", "README.png"),
    ],
)  # fmt: skip
def test_a_name_without_an_ending_pairs_too(image: str, mask: str) -> None:
    assert matched([image], [mask]) == {image: mask}


def test_names_without_an_ending_are_pictures_where_one_of_them_has_a_partner() -> None:
    photos, masks = keys("i", "a.jpg", "README", ".keep", "3f9c"), keys("m", "a.png")
    paired = pair(photos, masks, prompt="p")
    assert not [*paired.without_row()] and paired.other_endings == {"no ending": 2}
    paired = pair(photos, [*masks, *keys("m", "3f9c")], prompt="p")
    assert [row["image"] for row in paired.rows] == ["s3://b/i/3f9c", "s3://b/i/a.jpg"]
    assert paired.images_alone == ("s3://b/i/README",) and not paired.other_endings


def test_objects_that_are_no_pictures_are_counted_by_their_ending() -> None:
    both, root = keys("i", "a", "a_mask", "a.xmp", "b.xmp", "b.jpg_large", ".gitkeep", "_SUCCESS"), parse("s3://b/i/")
    paired = pair(both, both, prompt="p", roots=(root, root))
    assert [row["mask"] for row in paired.rows] == ["s3://b/i/a_mask"]
    assert not [*paired.without_row()]
    [line] = paired.left_out()
    assert ".xmp (2), .jpg_large (1); " in line
    many = pair(keys("i", *(f"a.{letter}" for letter in "abcdefg")), [], prompt="p")
    assert ".e (1) and 2 more; " in next(many.left_out())
    assert not [*pair(both, both, prompt="p", pattern="*.png").left_out()]
    assert not [*pair(keys("i", "a.png"), keys("m", "a.png"), prompt="p").left_out()]


@pytest.mark.parametrize(
    ("images", "masks", "found"),
    [
        (["facemask.jpg"], ["facemask.png"], {"facemask.jpg": "facemask.png"}),
        (["damask.jpg", "da.jpg"], ["damask.png", "da.png"], {"damask.jpg": "damask.png", "da.jpg": "da.png"}),
        (["sofa-mask.jpg"], ["sofa-mask_mask.png"], {"sofa-mask.jpg": "sofa-mask_mask.png"}),
        (["x/facemask.jpg"], ["FaceMask.png"], {"x/facemask.jpg": "FaceMask.png"}),
        (["mask.jpg", "a.jpg"], ["mask.png", "a_mask.png"], {"mask.jpg": "mask.png", "a.jpg": "a_mask.png"}),
        (["mask-1.jpg"], ["mask-1.png"], {"mask-1.jpg": "mask-1.png"}),
    ],
)
def test_an_image_may_itself_be_called_a_mask(images: list[str], masks: list[str], found: dict[str, str]) -> None:
    assert matched(images, masks) == found


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["face.jpg", "face_mask.jpg"], ["face_mask.png"]),  # it may be either's
        (["a.jpg"], ["a.png", "a_mask.png"]),  # the first may be a copy of the photo
        (["a.jpg", "a.webp"], ["a_mask.png"]),
        (["x/face.jpg", "y/face_mask.jpg"], ["face_mask.png"]),
    ],
)
def test_a_mask_that_may_be_of_one_of_two_pairs_with_none(images: list[str], masks: list[str]) -> None:
    roots = (parse("s3://b/i/"), parse("s3://b/m/"))
    paired = pair(keys("i", *images), keys("m", *masks), prompt="x", roots=roots)
    assert not paired.rows
    assert len(paired.clashes) == 1
    assert all(name in paired.clashes[0] for name in (*images, *masks))


def test_an_image_called_a_mask_pairs_from_one_folder_with_its_own() -> None:
    both, root = keys("i", "facemask.jpg", "facemask_mask.png", "b.jpg", "b_mask.png"), parse("s3://b/i/")
    paired = pair(both, both, prompt="p", roots=(root, root))
    assert [(row["image"], row["mask"]) for row in paired.rows] == [
        ("s3://b/i/b.jpg", "s3://b/i/b_mask.png"),
        ("s3://b/i/facemask.jpg", "s3://b/i/facemask_mask.png"),
    ]
    assert not [*paired.without_row()]


@pytest.mark.parametrize("mask", ["a.png", "a_mask.png"])
def test_one_prefix_may_lie_below_the_other(mask: str) -> None:
    photos, masks = keys("i", "a.jpg", "sub/b.jpg"), keys("i/masks", mask, "b.png")
    paired = pair([*photos, *masks], masks, prompt="p", roots=(parse("s3://b/i/"), parse("s3://b/i/masks/")))
    assert [(row["image"], row["mask"]) for row in paired.rows] == [
        ("s3://b/i/a.jpg", f"s3://b/i/masks/{mask}"),
        ("s3://b/i/sub/b.jpg", "s3://b/i/masks/b.png"),
    ]
    assert not [*paired.without_row()]
    turned = pair(
        photos[:1], [*photos[:1], parse("s3://b/a.png")], prompt="p", roots=(parse("s3://b/i/"), parse("s3://b/"))
    )
    assert [row["mask"] for row in turned.rows] == ["s3://b/a.png"]
    assert not [*turned.without_row()]
