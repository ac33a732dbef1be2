"""Where every object of one run lives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from inpaint_ops.config import SideProduct
from inpaint_ops.layout.names import check_run_name, record_place, side_product_name
from inpaint_ops.locations import Location

RUNS = "runs/"
"""The folder of a store that holds its runs."""

REDO = "redo/"
"""The folder of a run that holds the manifests of its child runs."""

PROFILE_SUFFIX = ".profile.json.gz"
"""How the name of a worker's profile ends; its report's is the same up to that."""

_VARIANT = re.compile(r"([0-9]{7,10})\.([0-9]{1,2})\.json")


def below(prefix: Location, key: str) -> Location:
    """What lies below a prefix, by a key that this package has made."""
    return Location(prefix.bucket, prefix.key + key)


def _is_below(one: Location, prefix: Location) -> bool:
    return one.bucket == prefix.bucket and one.key.startswith(prefix.key)


@dataclass(frozen=True, slots=True)
class RunLayout:
    """The keys of one run, below `<store>/runs/<run>/`."""

    store: Location
    run: str
    _root: Location = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_run_name(self.run)
        object.__setattr__(self, "_root", below(self.store.as_prefix(), f"{RUNS}{self.run}/"))

    @property
    def root(self) -> Location:
        """The run's prefix."""
        return self._root

    def _at(self, key: str) -> Location:
        return Location(self._root.bucket, self._root.key + key)

    @property
    def plan(self) -> Location:
        """`plan.json`: what was decided before any GPU was used; put if absent, so that it owns the run's name."""
        return self._at("plan.json")

    @property
    def refusal(self) -> Location:
        """`refused.json`: why a job of this name was not planned; replaced at will, and put only where no plan is."""
        return self._at("refused.json")

    @property
    def manifest(self) -> Location:
        """The frozen manifest: every accepted row, as canonical JSONL."""
        return self._at("manifest.jsonl")

    def shard(self, shard: str) -> Location:
        """The rows of one shard."""
        return self._at(f"shards/{shard}.jsonl")

    def retry(self, number: int) -> Location:
        """The plan of one retry, from 1; put if absent. It lies beside the shards: whoever paints may read it."""
        return self._at(f"shards/retry-{number:04d}.json")

    def image(self, name: str, extension: str, retry: int = 0) -> Location:
        """A finished image; `extension` has its dot. `name` is its row's id, or what the job's template made of it.

        Both are checked when a run is planned: no part of the key is `..`, and an id holds no slash.
        With `retry`, the name that an image of that retry has where an earlier attempt's has the plain one: no name
        ends with `~` and digits. Those of a
        row's variants are called by `variant_name` in the name's place.
        """
        return self._at(f"images/{name}{f'~{retry}' if retry else ''}{extension}")

    @property
    def images(self) -> Location:
        """The prefix of the finished images."""
        return self._at("images/")

    def thumbnail(self, image: Location, size: int) -> Location:
        """A small picture of a finished image, which has the image's whole name below `images/` before its own ending.

        Raises ValueError for what does not lie there.
        """
        if not _is_below(image, self.images):
            raise ValueError(f"{image} is no image of this run")
        return self._at(f"thumbnails/{image.key[len(self.images.key) :]}.{size}.webp")

    def side_product(self, image: Location, kind: SideProduct) -> Location:
        """A file beside a finished image, which has the image's whole name below `images/` before its own ending.

        Raises ValueError for what does not lie there.
        """
        if not _is_below(image, self.images):
            raise ValueError(f"{image} is no image of this run")
        return self._at(f"side_products/{side_product_name(image.key[len(self.images.key) :], kind)}")

    @property
    def records(self) -> Location:
        """The prefix of all records."""
        return self._at("records/")

    def shard_records(self, shard: str) -> Location:
        """The prefix of one shard's records; rejected rows are in the shard `rejected`."""
        return self._at(f"records/{shard}/")

    def record(self, shard: str, row: int) -> Location:
        """The one record of one row; each retry of the row has one more, in a shard of its own."""
        return self._at(f"records/{shard}/{row:07d}.json")

    def shard_variants(self, shard: str) -> Location:
        """The prefix of the records of the variants of one shard's rows."""
        return self._at(f"variants/{shard}/")

    def variant_record(self, shard: str, row: int, variant: int) -> Location:
        """The record of one variant of a row: how far the row is, until it has its own record."""
        return self._at(f"variants/{shard}/{row:07d}.{variant}.json")

    def row_and_variant(self, record: Location) -> tuple[int, int] | None:
        """The row and the variant whose record lies there: the reverse of `variant_record`; None for anything else."""
        found = _VARIANT.fullmatch(record.name)
        if found is None:
            return None
        row, variant = int(found[1]), int(found[2])
        return (row, variant) if record.name == f"{row:07d}.{variant}.json" else None

    def shard_and_row(self, record: Location) -> tuple[str, int] | None:
        """The shard and the row whose record lies there: the reverse of `record`; None for any other object."""
        prefix = self.records
        return record_place(record.key[len(prefix.key) :]) if _is_below(record, prefix) else None

    @property
    def compacted(self) -> Location:
        """The prefix of the shards' compacted records."""
        return self._at("compacted/")

    def compacted_shard(self, shard: str) -> Location:
        """The records of one shard once more, in one object, so that a report need not read one per row."""
        return self._at(f"compacted/{shard}.jsonl.gz")

    def ended_shard(self, shard: str) -> Location:
        """What the store lists of a shard whose every row has ended, so that a run that goes on passes over it."""
        return self._at(f"compacted/{shard}.ended.json")

    @property
    def workers(self) -> Location:
        """The prefix of the worker reports."""
        return self._at("workers/")

    def worker(self, attempt: str) -> Location:
        """The report of one worker process."""
        return self._at(f"workers/{attempt}.json")

    def worker_profile(self, attempt: str) -> Location:
        """What one worker process left of itself for Perfetto, where the job is profiled."""
        return self._at(f"workers/{attempt}{PROFILE_SUFFIX}")

    @property
    def stop_notes(self) -> Location:
        """The prefix of the notes on attempts that stopped before their shard was done."""
        return self._at("stops/")

    def stop_note(self, attempt: str) -> Location:
        """Why one attempt at a shard stopped early: `<shard>-<nonce>.json`."""
        return self._at(f"stops/{attempt}.json")

    @property
    def faults(self) -> Location:
        """The prefix of the faults that attempts recovered from."""
        return self._at("faults/")

    def fault_note(self, attempt: str) -> Location:
        """The faults that one attempt recovered from: `<shard>-<nonce>.json`; absent where nothing went wrong."""
        return self._at(f"faults/{attempt}.json")

    @property
    def progress(self) -> Location:
        """The prefix of the shards' progress."""
        return self._at("progress/")

    def shard_progress(self, shard: str) -> Location:
        """How far a shard is; replaced every few seconds while it is worked on."""
        return self._at(f"progress/{shard}.json")

    @property
    def reviews(self) -> Location:
        """The prefix of what people say of the results: one object per reviewer."""
        return self._at("reviews/")

    def review(self, name: str) -> Location:
        """The marks of one reviewer, a line each; `name` is what `reviewing.reviewers` makes of a reviewer's name.

        Lines are appended: the object is replaced only by somebody who has read it as it is.
        """
        return self._at(f"reviews/{name}.jsonl")

    @property
    def redos(self) -> Location:
        """The prefix of the manifests that do rows of this run again, each in a run of its own."""
        return self._at(REDO)

    def redo(self, child: str) -> Location:
        """The manifest of the run `child`, which does rows of this one again; put if absent."""
        return self._at(f"{REDO}{check_run_name(child)}.jsonl")

    @property
    def summary(self) -> Location:
        """`run.json`."""
        return self._at("run.json")

    @property
    def results(self) -> Location:
        """The records, compacted."""
        return self._at("results.jsonl")

    @property
    def failed(self) -> Location:
        """A valid manifest of the rows that failed."""
        return self._at("failed.jsonl")

    @property
    def rejected(self) -> Location:
        """The rejected rows as they were written, each with its error: a manifest once they are corrected."""
        return self._at("rejected.jsonl")

    @property
    def timings(self) -> Location:
        """The records' timings as Parquet."""
        return self._at("timings.parquet")

    @property
    def trace(self) -> Location:
        """The run as a Chrome trace, for Perfetto."""
        return self._at("trace.json")

    @property
    def report(self) -> Location:
        """The report, an HTML page."""
        return self._at("report.html")
