"""Images and masks matched by stem; what has no partner is named."""

from __future__ import annotations

from typing import Any

import pytest

from inpaint_ops.errors import ConfigError, ManifestError
from inpaint_ops.locations import Location, parse
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


def test_a_prompt_for_no_image_is_named() -> None:
    paired = pair(keys("i", "a.png"), keys("m", "a.png"), prompt=None, prompts={"A.png": "x", "z": "y"})
    assert ([row["prompt"] for row in paired.rows], paired.prompts_unused) == (["x"], ("z",))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ManifestError, match="no column 'prompt'; it has image, text"):
        read_prompts(b"image,text\na,b\n", key_column="image", prompt_column="prompt")
