"""Images and masks matched by stem; what has no partner is named."""

from __future__ import annotations

import pytest

from inpaint_ops.errors import ManifestError
from inpaint_ops.locations import parse
from inpaint_ops.manifest.pairing import pair, read_prompts

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


def test_prompts_come_from_a_column_by_name_or_stem_and_a_missing_one_is_named() -> None:
    prompts = read_prompts(b"\xef\xbb\xbfsku,text\nphotos/b.jpg,a blue cup\n", key_column="sku", prompt_column="text")
    paired = pair(IMAGES, MASKS, prompt=None, prompts=prompts)
    assert [row["prompt"] for row in paired.rows] == ["a blue cup"]
    assert paired.without_prompt == ("s3://b/i/a.png",)
    assert pair(IMAGES, MASKS, prompt="else", prompts=prompts).without_prompt == ()


def test_an_image_with_two_prompts_is_an_error_that_names_it() -> None:
    table = b"key,text\nphotos/b.jpg,a blue cup\nother/b.jpg,"
    assert read_prompts(table + b"a blue cup\n", key_column="key", prompt_column="text") == {"b.jpg": "a blue cup"}
    with pytest.raises(ManifestError, match=r"two prompts for 'b\.jpg': keep one"):
        read_prompts(table + b"a red cup\n", key_column="key", prompt_column="text")


def test_two_images_of_one_stem_are_an_error_that_names_both() -> None:
    with pytest.raises(ManifestError, match=r"b\.jpg.*b\.png.*one stem"):
        pair([*IMAGES, parse("s3://b/i/b.png")], MASKS, prompt="x")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ManifestError, match="no column 'prompt'; it has image, text"):
        read_prompts(b"image,text\na,b\n", key_column="image", prompt_column="prompt")
