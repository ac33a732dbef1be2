"""Deliveries of the pages and of the DAG go below the prefixes that the settings list, and nowhere else."""

from __future__ import annotations

import pytest

from inpaint_ops.config import Settings, load_settings
from inpaint_ops.delivering import permitted_place, permitted_prefixes
from inpaint_ops.errors import ConfigError, ForbiddenLocationError, InpaintOpsError

SETTINGS = Settings(delivery_prefixes=("s3://client/from-us", "s3://shop/", "/srv/handed-on/"))


@pytest.mark.parametrize(
    ("to", "place"),
    [
        ("s3://client/from-us/sofas/", "s3://client/from-us/sofas/"),
        ("s3://client/from-us/sofas", "s3://client/from-us/sofas/"),
        ("s3://client/from-us/", "s3://client/from-us/"),
        ("s3://client/from-us", "s3://client/from-us/"),
        ("s3://shop/any/where/", "s3://shop/any/where/"),
        ("/srv/handed-on/sofas/", "/srv/handed-on/sofas/"),
        ("file:///srv/handed-on/sofas/", "/srv/handed-on/sofas/"),
    ],
)
def test_what_lies_below_a_listed_prefix_is_taken_as_a_prefix(to: str, place: str) -> None:
    assert permitted_place(SETTINGS, to).uri == place


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("s3://client/from-us2/sofas/", "outside s3://client/from-us/, s3://shop/, /srv/handed-on/"),
        ("s3://client/", "INPAINT_DELIVERY_PREFIXES"),
        ("s3://other/from-us/", "outside"),
        ("s3://client/from-us/../secret/", "'..'"),
        ("/srv/handed-on/../../etc/", "outside"),
        ("/srv/handed-on2/", "outside"),
        ("sofas/", "not a whole location"),
        ("https://example.org/", "not supported"),
        ("s3://client/from-us/sofas.zip", "download the ZIP"),
        ("", "not a whole location"),
    ],
)
def test_any_other_place_is_refused_in_words(to: str, words: str) -> None:
    with pytest.raises(InpaintOpsError) as caught:
        permitted_place(SETTINGS, to)
    assert isinstance(caught.value, (ConfigError, ForbiddenLocationError))
    assert words in str(caught.value)


def test_deliveries_are_off_where_no_prefix_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", " , "):
        monkeypatch.setenv("INPAINT_DELIVERY_PREFIXES", value)
        assert permitted_prefixes(load_settings()) == ()
        with pytest.raises(ConfigError, match="deliveries are off: INPAINT_DELIVERY_PREFIXES"):
            permitted_place(load_settings(), "s3://client/from-us/")


def test_the_setting_lists_prefixes_with_commas_and_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INPAINT_DELIVERY_PREFIXES", "s3://client/from-us, s3://shop/")
    assert [one.uri for one in permitted_prefixes(load_settings())] == ["s3://client/from-us/", "s3://shop/"]
    for value, words in (("client/from-us", "not a whole location"), ("s3://key:secret@b/", "no credentials")):
        monkeypatch.setenv("INPAINT_DELIVERY_PREFIXES", value)
        with pytest.raises(ConfigError, match=f"INPAINT_DELIVERY_PREFIXES: .*{words}") as caught:
            permitted_prefixes(load_settings())
        assert "secret" not in str(caught.value)
