"""Where a delivery may go that nobody asks for at a shell of their own: below INPAINT_DELIVERY_PREFIXES."""

from __future__ import annotations

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, InpaintOpsError
from inpaint_ops.locations import Location, check_whole, parse

VARIABLE = "INPAINT_DELIVERY_PREFIXES"


def permitted_prefixes(settings: Settings) -> tuple[Location, ...]:
    """The prefixes that deliveries may go to, in the setting's order. Raises ConfigError that names a wrong one."""
    found = []
    for text in settings.delivery_prefixes:
        try:
            check_whole(text)
            found.append(parse(text).as_prefix())
        except InpaintOpsError as error:
            raise ConfigError(f"{VARIABLE}: {error}") from None
    return tuple(found)


def permitted_place(settings: Settings, to: str) -> Location:
    """The prefix that `to` names, as a place to deliver to.

    Raises ConfigError where it names none or lies outside INPAINT_DELIVERY_PREFIXES; ForbiddenLocationError for a key
    with '..' in it. Whether the store keeps its runs there is for `check_target`.
    """
    prefixes = permitted_prefixes(settings)
    if not prefixes:
        raise ConfigError(f"deliveries are off: {VARIABLE} lists the prefixes that they may go to")
    check_whole(to)
    place = parse(to)
    if place.key.lower().rstrip("/").endswith(".zip"):
        raise ConfigError(f"{place} names a ZIP: give a prefix, or download the ZIP from the run's page")
    place = place.as_prefix()
    if not any(one.contains(place) for one in prefixes):
        raise ConfigError(
            f"{place} is outside {', '.join(map(str, prefixes))}: deliver below one of these ({VARIABLE})"
        )
    return place
