"""The workspace: settings, the store's root, and the guarded storage over both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from inpaint_ops.config import Settings
from inpaint_ops.errors import (
    ConfigError,
    ManifestError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)
from inpaint_ops.layout import RunLayout, StoreLayout, retry_of
from inpaint_ops.locations import Location, parse
from inpaint_ops.manifest import ManifestLimits, ParsedManifest, RowDefaults, read_parts
from inpaint_ops.planning import JobOptions, Plan, PlannedRow
from inpaint_ops.run_files.frozen import read_plan, read_shard
from inpaint_ops.run_files.retried import read_retry
from inpaint_ops.storage import Storage
from inpaint_ops.storage.s3_client import make_s3_client
from inpaint_ops.storage.stored import Leftovers


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where runs live and what may be read: settings, the store's root, and the guarded storage over both."""

    settings: Settings
    store: Location
    storage: Storage

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        store: str | None = None,
        also_readable: Iterable[str] = (),
        also_writable: Iterable[Location] = (),
        s3_client: Callable[[], object] | None = None,
    ) -> Workspace:
        """A workspace at `store` (default: INPAINT_STORE). Manifests may read from the store, the inbox,
        INPAINT_ALLOWED_PREFIXES and `also_readable`. What is named in `also_writable` may be written beside the store:
        for commands in which a person says so. `s3_client` makes the client; default: by the SDK's own settings.

        Raises ConfigError when no store is named.
        """
        uri = store or settings.store
        if not uri:
            raise ConfigError("no store: set INPAINT_STORE (or --out) to s3://bucket/prefix or a folder")
        root = parse(uri).as_prefix()
        readable = [parse(text).as_prefix() for text in (*settings.allowed_prefixes, *also_readable)]
        if settings.inbox:
            readable.append(parse(settings.inbox).as_prefix())
        storage = Storage(
            readable=readable,
            writable=[root, *also_writable],
            s3_client=s3_client  # type: ignore[arg-type]
            or partial(make_s3_client, attempts=settings.storage_tries, requester_pays=settings.requester_pays),
            attempts=settings.storage_tries,
            etag_md5=settings.etag_md5 == "auto",
        )
        return cls(settings, root, storage)

    @property
    def places(self) -> StoreLayout:
        """Where the store's objects are."""
        return StoreLayout(self.store)

    @property
    def inbox(self) -> Location:
        """The prefix that is watched for manifests: INPAINT_INBOX, or the store's own."""
        return parse(self.settings.inbox).as_prefix() if self.settings.inbox else self.places.inbox

    def layout(self, run: str) -> RunLayout:
        """Where the run's objects are."""
        return self.places.run(run)

    def read_manifest(
        self, manifest: str, row_limit: int | None = None, defaults: RowDefaults | None = None
    ) -> tuple[ParsedManifest, str]:
        """The manifest's rows and the SHA-256 of its bytes. Raises ManifestError, StorageError.

        `defaults` is for rows that do not say it themselves.

        A folder or prefix of Parquet files, as Spark, Dask and pyarrow write tables, is one manifest: its parts in the
        order of their names, with keys relative to the folder.
        """
        location = parse(manifest)
        limits = ManifestLimits(
            max_rows=self.settings.max_rows,
            max_bytes=self.settings.max_manifest_bytes,
            max_prompt_chars=self.settings.max_prompt_chars,
            max_row_bytes=self.settings.max_row_bytes,
        )
        digest = hashlib.sha256()
        try:
            if location.key.endswith("/"):
                raise ObjectNotFoundError(f"there is no object {location}: it names a folder")
            data = self._manifest_bytes(location, limits.max_bytes)
        except ObjectNotFoundError as error:
            folder = location.as_prefix()
            names = _parts(self.storage, folder, limits.max_bytes)
            if not names and next(self.storage.list(folder), None) is not None:
                raise ObjectNotFoundError(
                    f"{error}; `inpaint-ops manifest` writes a manifest of folders with images and masks"
                ) from None
            if not names:
                raise
            parts = ((place.name, self._manifest_bytes(place, limits.max_bytes)) for place in names)
        else:
            folder, parts = location.parent, (part for part in [(location.name, data)])

        def digested() -> Iterator[tuple[str, bytes]]:
            for name, body in parts:
                digest.update(body)
                yield name, body

        parsed = read_parts(
            digested(),
            folder=folder,
            is_allowed=self.storage.may_read_each(),
            limits=limits,
            row_limit=row_limit,
            defaults=defaults,
            may_share=True,
        )
        return parsed, digest.hexdigest()

    def _manifest_bytes(self, location: Location, max_bytes: int) -> bytes:
        try:
            return self.storage.get(location, max_bytes=max_bytes)
        except ObjectTooLargeError as error:
            raise ManifestError(f"{error} (INPAINT_MAX_MANIFEST_BYTES)") from error

    def plan(self, run: str) -> Plan | None:
        """The run's plan, or None if there is no such run. Raises StorageError, where it is damaged too."""
        return read_plan(self.storage, self.layout(run), self.settings)

    def shard_rows(self, plan: Plan, shard: str) -> list[PlannedRow]:
        """The frozen rows of one shard. Raises ConfigError if the run has none of that name, StorageError."""
        return self.shard(plan, shard)[1]

    def shard(self, plan: Plan, name: str) -> tuple[JobOptions, list[PlannedRow]]:
        """What one shard is painted with, and its frozen rows: a shard of the run itself, or of one of its retries.

        Raises ConfigError if the run has none of that name, StorageError.
        """
        job, shards, layout = plan.job, plan.shards, self.layout(plan.run)
        if number := retry_of(name):
            try:
                retry = read_retry(self.storage, layout, number)
            except ObjectNotFoundError:
                raise ConfigError(f"run {plan.run!r} has no retry {number}, so it has no shard {name!r}") from None
            job, shards = retry.job, retry.shards
        found = next((one for one in shards if one.name == name), None)
        if found is None:
            raise ConfigError(f"run {plan.run!r} has no shard {name!r}: it has {len(shards)}, from 00000")
        return job, read_shard(self.storage, layout, found, job, self.settings, Leftovers())


_MOST_PARTS = 10_000
_NOT_A_PART = ("_", ".")
"""How the names begin of what Spark and others put beside the parts: `_SUCCESS`, `_metadata`, `.part-0.crc`."""


def _parts(storage: Storage, folder: Location, max_bytes: int) -> list[Location]:
    """The Parquet files below a folder, by name. Raises ManifestError if they are too many or too large."""
    found: list[Location] = []
    size = 0
    for info in storage.list(folder):
        below = info.location.key[len(folder.key) :].split("/")
        if any(part.startswith(_NOT_A_PART) for part in below) or not below[-1].lower().endswith(".parquet"):
            continue
        if len(below) > 1 and any("=" in part for part in below[:-1]):
            raise ManifestError(
                f"{info.location} is of a partitioned table, whose folders hold columns: write it without partitions"
            )
        found.append(info.location)
        size += info.size
        if len(found) > _MOST_PARTS:
            raise ManifestError(f"{folder} holds more than {_MOST_PARTS} Parquet files: write fewer, larger ones")
        if size > max_bytes:
            raise ManifestError(
                f"{folder}: more than {max_bytes} bytes of Parquet files (INPAINT_MAX_MANIFEST_BYTES): split it"
            )
    return sorted(found, key=lambda place: place.key)
