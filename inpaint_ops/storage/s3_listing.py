"""Pages of ListObjectsV2, read faster than botocore does: what a listing needs of each object, not the whole model.

botocore makes of each object a dict of all that S3 may say of one, and parses each page twice: a listing takes three
times as long. It still reads the rest of the page (tokens, prefixes, whether it is the last), decodes the keys, and
reads the whole page, or refuses it, where it holds anything that is not as expected.
"""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any


class _UnexpectedPageError(Exception):
    """The page is left to botocore."""


def read_pages_faster(events: Any, read_moment: Callable[[str], datetime]) -> None:
    """Have a client do so, by its emitter of events; `read_moment` reads a date of a reply, or raises ValueError."""
    # By this pattern before `before-parse.s3.*`, for which botocore parses the whole body to see whether it is an error
    # in a reply that says 200. In another order it would cost time and nothing else.
    events.register("before-parse.*.ListObjectsV2", functools.partial(_read_page, read_moment=read_moment))


def _read_page(
    response_dict: dict[str, Any],
    customized_response_dict: dict[str, Any],
    read_moment: Callable[[str], datetime],
    **_: Any,
) -> None:
    """Read the objects of a page, and leave a body without them to botocore, which adds what was read."""
    body = response_dict["body"]
    if response_dict["status_code"] != 200 or not body:
        return
    try:
        # What botocore itself parses it with: no other limits hold here than there.
        page = ElementTree.XML(body, parser=ElementTree.XMLParser(encoding="utf-8"))  # noqa: S314
        if _name(page.tag) != "ListBucketResult":
            return
        found, rest = [], []
        for part in page:
            if _name(part.tag) == "Contents":
                found.append(_object(part, read_moment))
            else:
                rest.append(part)
    except (ElementTree.ParseError, _UnexpectedPageError, ValueError):
        return
    if found:
        page[:] = rest
        response_dict["body"] = ElementTree.tostring(page, encoding="utf-8")
        customized_response_dict["Contents"] = found


def _object(parts: Iterable[ElementTree.Element], read_moment: Callable[[str], datetime]) -> dict[str, Any]:
    """Raises ValueError for a number or date that is none."""
    said: dict[str, Any] = {}
    for part in parts:
        name = _name(part.tag)
        if name in _READ:
            if name in said:
                raise _UnexpectedPageError
            said[name] = part.text or ""
    if "Key" not in said:
        raise _UnexpectedPageError
    if "Size" in said:
        said["Size"] = int(said["Size"])
    if "LastModified" in said:
        said["LastModified"] = read_moment(said["LastModified"])
    return said


_READ = frozenset({"Key", "LastModified", "ETag", "Size"})


@functools.lru_cache(maxsize=256)
def _name(tag: str) -> str:
    """A tag without its namespace; stores write S3's, another one, or none."""
    return tag.rpartition("}")[2]
