"""Images' names by a template: whatever the sources are called, each name is a plain key that no other row has."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inpaint_ops.config import EXTENSIONS
from inpaint_ops.errors import ConfigError, ForbiddenLocationError
from inpaint_ops.locations import Location, check_relative, parse
from inpaint_ops.manifest import AcceptedRow, OutputNames, check_apart, check_template, folder_of, why_no_name
from inpaint_ops.manifest.output_names import PLACEHOLDERS, TakenNames
from inpaint_ops.manifest.problems import BadRowError

HERE = parse("s3://b/jobs/night.jsonl").parent


def row(image: str = "s3://b/jobs/photos/living/sofa.jpg", number: int = 1, **fields: Any) -> AcceptedRow:
    return AcceptedRow(image=image, mask="s3://b/m.png", prompt="x", row=number, **{"id": "sofa", **fields})


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{id}.{ext}", "sofa"),
        ("{folder}/{stem}.{ext}", "photos/living/sofa"),
        ("out/{folder}-{row}-{k}.{ext}", "out/photos/living-1-0"),
        ("{ext}/{stem}.{ext}", "jpg/sofa"),
        ("{{{stem}}}.{ext}", "{sofa}"),
    ],
)
def test_a_template_is_filled_from_the_row(template: str, name: str) -> None:
    assert OutputNames(check_template(template), HERE).name(row(format="jpeg")) == name


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("s3://b/jobs/sofa.jpg", "sofa"),  # no folder: no empty part
        ("s3://b/other/a/sofa.jpg", "other/a/sofa"),
        ("s3://elsewhere/sofa.tar.jpg", "sofa.tar"),
        ("/data/a/sofa", "data/a/sofa"),
        ("s3://b/jobs/{id}/{k}{row}.jpg", "{id}/{k}{row}"),  # braces of strangers are letters
        ("s3://b/jobs/cafe\u0301/e\u0301.jpg", "caf\u00e9/\u00e9"),
        ("s3://b/jobs/Bild mit Ümläuten (2)/日本.jpg", "Bild mit Ümläuten (2)/日本"),
    ],
)
def test_the_folder_of_a_source_is_kept(image: str, name: str) -> None:
    assert OutputNames("{folder}/{stem}.{ext}", HERE).name(row(image)) == name


def test_the_folder_counts_from_where_relative_keys_do() -> None:
    assert folder_of("s3://b/jobs/night.jsonl") == folder_of("s3://b/jobs") == Location("b", "jobs/")
    assert folder_of("/tables/night.parquet/") == Location(None, "/tables/night.parquet/")


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("..\u200b", "U+200B"),
        ("a\u202egpj", "U+202E"),
        ("con", "reserves"),
        ("LPT1.old", "reserves"),
        ("a:b", "':'"),
        ("a?", "'?'"),
        ("a|b", "'|'"),
        (".hidden", "dot or a space"),
        ("a.", "dot or a space"),
        ("a ", "dot or a space"),
        ("\uff0e\uff0e", "looks like '..'"),
        ("a\uff0fb", "looks like 'a/b'"),
        ("a\uff1ab", "looks like 'a:b'"),
        ("x" * 201, "200 bytes"),
        ("\u65e5" * 67, "200 bytes"),
    ],
)
def test_a_folder_that_is_none_everywhere_is_refused_with_the_row_s_field_and_the_cure(part: str, why: str) -> None:
    with pytest.raises(BadRowError, match=re.escape(why)) as raised:
        OutputNames("{folder}/{stem}.{ext}", HERE).name(row(f"s3://b/jobs/{part}/a.jpg"))
    assert raised.value.field == "image" and "or name images by {id}" in str(raised.value)
    assert OutputNames("{id}.{ext}", HERE).name(row(f"s3://b/jobs/{part}/a.jpg")) == "sofa", "the cure"


@pytest.mark.parametrize("stem", ["photo~1", "nul", "aux.x", "-" * 197])
def test_a_stem_that_an_image_may_not_have_is_refused(stem: str) -> None:
    with pytest.raises(BadRowError):
        OutputNames("{stem}.{ext}", HERE).name(row(f"s3://b/jobs/{stem}.jpg"))


def test_many_long_folders_are_refused() -> None:
    with pytest.raises(BadRowError, match="500 bytes"):
        OutputNames("{folder}/{stem}.{ext}", HERE).name(row("s3://b/jobs/" + ("f" * 100 + "/") * 5 + "a.jpg"))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{name}.{ext}", r"names \{name\}: there are \{id\}, \{stem\}, \{folder\}, \{k\}, \{row\}, \{ext\}"),
        ("{}.{ext}", r"names \{\}"),
        ("{id!r}.{ext}", r"names \{id"),
        ("{row:05}.{ext}", r"names \{row:05\}"),
        ("{id.__class__}.{ext}", "names"),
        ("{id", "braces"),
        ("{id}", "must end with"),
        ("{stem}.png", "must end with"),
        ("../{id}.{ext}", "no plain name"),
        ("/{id}.{ext}", "no plain name"),
        ("a//{id}.{ext}", "no plain name"),
        ("{id}/.{ext}", "no plain name"),
        ("nul/{id}.{ext}", "no plain name"),
        ("a\\{id}.{ext}", "no plain name"),
        ("{id}~1.{ext}", "no plain name"),
        (".{ext}", "no plain name"),
    ],
)
def test_a_template_that_makes_no_names_is_refused(template: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_template(template)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("s3://b/jobs/a/sofa.jpg", "s3://b/jobs/a/sofa.png"),
        ("s3://b/jobs/a/sofa.jpg", "s3://b/jobs/A/Sofa.jpg"),
        ("s3://b/jobs/stra\u00dfe/a.jpg", "s3://b/jobs/STRASSE/a.jpg"),
        ("s3://b/jobs/\u00e9.jpg", "s3://b/jobs/e\u0301.jpg"),
        ("s3://b/jobs/a.jpg", "s3://b/jobs/a.png/b.jpg"),
        ("s3://b/jobs/A.PNG/b.jpg", "s3://b/jobs/a.jpg"),
        ("s3://b/jobs/a.jpg", "s3://other/a.jpg"),
    ],
)
def test_two_rows_with_one_name_are_refused_naming_both(first: str, second: str) -> None:
    names = OutputNames("{folder}/{stem}.{ext}", HERE)
    rows = [row(first, 3), row("s3://b/jobs/else.jpg", 4), row(second, 7)]
    named = [(one.row, names.name(one) + ".png") for one in rows]
    with pytest.raises(ConfigError, match=r"^names: rows 3 and 7 would .* add \{id\} or \{row\} to the template"):
        check_apart(named, names.template)
    check_apart(named[:2], names.template)


_PARTS = st.text(st.characters(exclude_characters="/"), min_size=1, max_size=12)
_SOURCES = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)
_TEMPLATES = st.lists(
    st.sampled_from([*(f"{{{name}}}" for name in PLACEHOLDERS), "/", "..", "-", "x", " ", "con", "~1", "{{", "."]),
    max_size=6,
).map(lambda parts: "".join(parts) + ".{ext}")


@given(template=_TEMPLATES, sources=st.lists(_SOURCES, min_size=1, max_size=5))
def test_whatever_sources_are_called_names_are_plain_keys_that_no_two_rows_share(
    template: str, sources: list[str]
) -> None:
    try:
        check_template(template)
    except ValueError:
        assume(False)
    names, taken, kept = OutputNames(template, HERE), TakenNames(), set[str]()
    for number, source in enumerate(sources, 1):
        one = row(Location("b", f"jobs/{source}").uri, number, id=f"id-{number}")
        try:
            name = names.name(one) + EXTENSIONS[one.output_format]
        except BadRowError:
            continue
        except (ConfigError, ForbiddenLocationError):
            continue  # no key that a manifest may have: its reader has refused the row
        check_relative(name)
        assert unicodedata.normalize("NFC", name) == name and len(name.encode()) <= 500
        assert not any(PureWindowsPath(part).is_reserved() for part in name.split("/"))
        assert Path("/out/images", name).resolve().is_relative_to("/out/images")
        assert why_no_name(name) is None
        if taken.claim(name, number) is None:
            folded = unicodedata.normalize("NFC", name).casefold()
            assert not any(folded == other or folded.startswith(other + "/") for other in kept)
            assert not any(other.startswith(folded + "/") for other in kept)
            kept.add(folded)


def test_several_images_of_a_row_have_a_name_each() -> None:
    assert OutputNames("{stem}-{k}.{ext}", HERE).names(row(), 3) == ("sofa-0", "sofa-1", "sofa-2")
    assert OutputNames("{stem}.{ext}", HERE).names(row(), 2) == ("sofa.0", "sofa.1")
    assert OutputNames("{stem}.{ext}", HERE).names(row()) == ("sofa",)
