"""What a person writes: `jobs/<name>.yaml`, checked in full before anything is started by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any, Self
from zoneinfo import ZoneInfo

import yaml
from croniter import CroniterError, croniter
from pydantic import Field, ValidationError, field_validator, model_validator

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError, InpaintOpsError
from inpaint_ops.locations import check_whole
from inpaint_ops.planning import JobOptions, job_options
from inpaint_ops.records import Model
from inpaint_ops.runs import Workspace
from inpaint_ops.storage import ObjectInfo

ENDINGS = (".yaml", ".yml")
MAX_BYTES = 64 * 2**10
"""Of one entry."""
MAX_ENTRIES = 1000
"""Entries that one look reads."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_FIELDS = re.compile(r"@[a-z]+|[0-9A-Za-z*/,#L-]+( [0-9A-Za-z*/,#L-]+){4}")
"""A cron expression of five fields, or a nickname. croniter also takes seconds and random times, which Airflow's own
schedules do not."""

_NICKNAMES = "@hourly, @daily, @weekly, @monthly and @yearly"

_AT_RANDOM = re.compile(r"(?<![A-Za-z])[RrHh](?![A-Za-z])")

OPTIONS = frozenset({*JobOptions.model_fields, "batch_size"} - {"device", "model_revision"})
"""What `options` may hold: the fields of the form of `inpaint_manifest`."""


class Entry(Model):
    """A standing job. Either a manifest, or prefixes of images and masks, is what rows are made of."""

    schedule: str | None = Field(
        default=None, description="When: a cron expression of five fields, or @daily and its like. None: by hand."
    )
    on_arrival: bool = Field(
        default=False, description="Also when the store's queue tells that objects have come (INPAINT_ARRIVALS_QUEUE)."
    )
    timezone: str = Field(default="UTC", description="Of the schedule: a name of the tz database.")
    enabled: bool = True
    manifest: str | None = Field(default=None, min_length=1, description="URI of a manifest, read anew each time.")
    images: str | None = Field(default=None, min_length=1, description="URI of a prefix of images, masks too maybe.")
    masks: str | None = Field(default=None, min_length=1, description="URI of a prefix of masks; None: as `images`.")
    recursive: bool = Field(default=True, description="Prefixes below, too.")
    mask_suffix: str | None = Field(default=None, min_length=1, description="What a mask's stem ends with.")
    glob: str | None = Field(default=None, min_length=1, description="Only images whose name or path matches.")
    id: str | None = Field(default=None, min_length=1, description="The rows' ids, of {stem}, {name}, {path} and {n}.")
    prompts: str | None = Field(default=None, min_length=1, description="URI of a table with a prompt for each image.")
    key_column: str = "image"
    prompt_column: str = "prompt"
    options: dict[str, Any] = Field(default_factory=dict, description="As in the form of `inpaint_manifest`.")

    @field_validator("schedule")
    @classmethod
    def _is_a_schedule(cls, value: str | None) -> str | None:
        if value is None:
            return None
        text = " ".join(value.split())
        if not _FIELDS.fullmatch(text) or _AT_RANDOM.search(text):
            raise ValueError("write five fields, as '0 22 * * *', or @daily")
        try:
            croniter(text, datetime(2000, 1, 1, tzinfo=UTC)).get_next(datetime)  # one that never comes is none
        except (CroniterError, ValueError, KeyError) as error:
            reason = f"{_NICKNAMES} are read" if text.startswith("@") else error
            raise ValueError(f"{text!r} is no schedule: {reason}") from None
        return text

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
            raise ValueError(f"there is no time zone {value!r}: write a name such as Europe/Berlin") from None
        return value

    @field_validator("options")
    @classmethod
    def _are_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        if unknown := sorted(set(value) - OPTIONS):
            raise ValueError(f"unknown {', '.join(unknown)}; it may hold {', '.join(sorted(OPTIONS))}")
        return value

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.manifest is None) == (self.images is None):
            raise ValueError("give `manifest`, or `images` (and `masks`), and not both")
        of_folders = ("masks", "mask_suffix", "glob", "id", "prompts")
        if self.manifest is not None and (named := [name for name in of_folders if getattr(self, name) is not None]):
            raise ValueError(f"{', '.join(named)}: only with `images`; a manifest's rows say it themselves")
        if self.images is not None and self.prompts is None and "prompt" not in self.options:
            raise ValueError("rows would have no prompt: give `prompts`, or `prompt` in `options`")
        for name in ("manifest", "images", "masks", "prompts"):
            if (place := getattr(self, name)) is not None:
                try:
                    check_whole(place)
                except ConfigError as error:
                    raise ValueError(f"{name}: {error}") from None
        return self

    def job(self, settings: Settings) -> JobOptions:
        """The job of a run. Raises ConfigError naming the option."""
        try:
            return job_options(settings, **self.options)
        except ConfigError as error:
            raise ConfigError(f"options: {_in_yaml(str(error))}") from None

    def last_time(self, until: datetime) -> datetime | None:
        """The latest time of the schedule that is not after `until`, in UTC; None without a schedule."""
        if self.schedule is None:
            return None
        local = until.astimezone(ZoneInfo(self.timezone)).replace(microsecond=0) + timedelta(seconds=1)
        found: datetime = croniter(self.schedule, local).get_prev(datetime)
        return found.astimezone(UTC)

    def next_time(self, after: datetime) -> datetime | None:
        """The first time of the schedule that is after `after`, in UTC; None without a schedule, or disabled."""
        if self.schedule is None or not self.enabled:
            return None
        found: datetime = croniter(self.schedule, after.astimezone(ZoneInfo(self.timezone))).get_next(datetime)
        return found.astimezone(UTC)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
    """YAML without aliases, which let a short file stand for a long one, and with each key once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases are not read: write it out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else None)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def parse_entry(data: bytes) -> Entry:
    """The entry that a file says. Raises ConfigError with the line, or the field, and the cure."""
    try:
        loaded = yaml.load(data, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"it is no YAML: {where}{error.problem or error}{_quotes(error)}") from None
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        is_text = isinstance(error, yaml.reader.ReaderError) and error.encoding == "unicode"
        cure = "leave such characters out" if is_text else "save it as UTF-8"
        raise ConfigError(f"it is no YAML: {' '.join(str(error).split())[:200]}; {cure}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"it is no YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(loaded, dict):
        raise ConfigError("write fields, as `schedule: '0 22 * * *'`")
    try:
        return Entry.model_validate(loaded)
    except ValidationError as error:
        first = error.errors()[0]
        field, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"there is no such field; there are {', '.join(Entry.model_fields)}"
        raise ConfigError(_in_yaml(f"{field}: {message}" if field else message)) from None


def _quotes(error: yaml.MarkedYAMLError) -> str:
    """The cure where a value begins with a character that has a meaning in YAML, as `* * * * *` and `@daily` do."""
    mark = error.problem_mark if isinstance(error, yaml.scanner.ScannerError) else None
    line = mark.buffer[mark.buffer.rfind("\n", 0, mark.pointer) + 1 :] if mark and mark.buffer else ""
    return "; write the value in quotes" if re.match(r"[^#\n]*?[:,{\[-]\s*[*&@`%|>!]", line) else ""


def _in_yaml(message: str) -> str:
    """`message`, and the cure where YAML took a text (`12`, `no`) for something else, or the other way round."""
    if message.endswith("should be a valid string"):
        return f"{message}: write it in quotes"
    return f"{message}: write true or false" if "should be a valid boolean" in message else message


def read_entries(workspace: Workspace) -> Iterator[tuple[str, ObjectInfo, Entry | ConfigError]]:
    """Each entry of the store by name, its object, and what it says or why it cannot be used. Raises StorageError."""
    infos = [
        info
        for info in workspace.storage.list(workspace.places.jobs, direct=True)
        if PurePosixPath(info.location.name).suffix.lower() in ENDINGS
    ]
    infos.sort(key=lambda info: info.location.key)
    seen: set[str] = set()
    for number, info in enumerate(infos):
        name = PurePosixPath(info.location.name).stem
        try:
            if number >= MAX_ENTRIES:
                raise ConfigError(f"a store has at most {MAX_ENTRIES:,} entries: remove some")
            if not _NAME.fullmatch(name):
                raise ConfigError("name it with letters, digits, - and _, 80 at most")
            if name in seen:
                raise ConfigError(f"there is another entry {name}: keep one")
            seen.add(name)
            if info.size > MAX_BYTES:
                raise ConfigError(f"it is larger than {MAX_BYTES:,} bytes")
            entry = parse_entry(workspace.storage.get(info.location, max_bytes=MAX_BYTES))
            entry.job(workspace.settings)
            yield name, info, entry
        except InpaintOpsError as error:
            if not error.permanent:
                raise
            yield name, info, error if isinstance(error, ConfigError) else ConfigError(str(error))
