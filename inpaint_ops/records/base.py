"""The base of all data that crosses a boundary, and bounds of its numbers: foreign data stays finite when it is summed.

Units everywhere: seconds, bytes, pixels. Times of day are UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


# What is read back may have been written by anybody: bounds keep sums finite, and numbers within a table's columns.
Moment = Annotated[AwareDatetime, Field(ge=_EARLIEST, le=_LATEST)]
"""A time of day with its offset from UTC, from 1970 to 2200: calendars, tables and sums can hold it."""

LONGEST_SECONDS = 1e9
Seconds = Annotated[float, Field(ge=0, le=LONGEST_SECONDS)]
"""One measured duration: up to 30 years."""

Amount = Annotated[float, Field(ge=0, le=1e15)]
"""A sum of durations, or a rate."""

Expected = Annotated[float, Field(ge=0, le=1e30)]
"""A forecast: made of amounts that others have left in the store."""

Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Bytes = Annotated[int, Field(ge=0, le=2**60)]


class Model(BaseModel):
    """The base of all data that crosses a boundary: frozen, forbids unknown keys, rejects NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def duration_in_words(seconds: float) -> str:
    """A duration as people say it, to about three figures."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms" if seconds else "0 s"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    if seconds > 1e9:
        return "more than 30 years"
    whole = timedelta(seconds=round(seconds))
    minutes, rest = divmod(int(whole.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def cost_of(seconds: float, hour_price: float | None) -> float | None:
    """What so many seconds of a card cost, in the currency of `hour_price`; None without one."""
    return None if hour_price is None else seconds / 3600 * hour_price
