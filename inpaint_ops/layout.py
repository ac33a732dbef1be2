"""Where every object of a store lives: StoreLayout for the store, RunLayout for one run in it."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from inpaint_ops.config import SideProduct
from inpaint_ops.errors import ConfigError
from inpaint_ops.locations import Location

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,149}")


def check_run_name(run: str) -> str:
    """Return `run`, or raise ConfigError: letters, digits and `._+-`, at most 150 of them."""
    if not _RUN_NAME.fullmatch(run) or ".." in run:
        raise ConfigError(
            f"run name {run!r}: use letters, digits and '._+-', at most 150, starting with one of the first two"
        )
    return run


def run_name_from(text: str) -> str:
    """A run name made of `text`: each forbidden character becomes `_`."""
    name = re.sub(r"[^A-Za-z0-9._+-]+|\.{2,}", "_", text).lstrip("._+-")[:150]
    return check_run_name(name or "run")


REDO = "redo/"
"""The folder of a run that holds the manifests of its child runs."""

SHARD_NAME = r"[0-9]{5,9}(?:r[0-9]{4}_[0-9a-f]{8})?"
"""What a shard may be called, as a regular expression: `00000`, or `00000r0001_1f2e3d4c` for one of the first retry."""

PROFILE_SUFFIX = ".profile.json.gz"
"""How the name of a worker's profile ends; its report's is the same up to that."""

MAX_RETRIES = 999
"""Of a run; what a report looks at is bounded by it."""
_RETRY_SHARD = re.compile(r"[0-9]{5,9}r([0-9]{4})_[0-9a-f]{8}")
_VARIANT = re.compile(r"([0-9]{7,10})\.([0-9]{1,2})\.json")
_RECORD = re.compile(rf"({SHARD_NAME}|rejected)/([0-9]{{7,10}})\.json")


def record_place(name: str) -> tuple[str, int] | None:
    """The shard and the row of a record by its name below `records/`; None for a name that no record has."""
    found = _RECORD.fullmatch(name)
    if found is None or name != f"{found[1]}/{int(found[2]):07d}.json":
        return None
    return found[1], int(found[2])


_GALLERY = re.compile(r"until-([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{8}")


def gallery_name(end: datetime) -> str:
    """What a gallery is called whose links end then: no two are called alike."""
    return f"until-{end:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def gallery_end(name: str) -> datetime | None:
    """When a gallery's links end, by its name; None for a name that no gallery has."""
    found = _GALLERY.fullmatch(name)
    try:
        return datetime.strptime(f"{found[1]}+0000", "%Y%m%dT%H%M%SZ%z") if found else None
    except ValueError:
        return None


def _below(prefix: Location, key: str) -> Location:
    return Location(prefix.bucket, prefix.key + key)


def _is_below(one: Location, prefix: Location) -> bool:
    return one.bucket == prefix.bucket and one.key.startswith(prefix.key)


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """The keys of one store. Each prefix ends with a slash."""

    store: Location

    def _at(self, key: str) -> Location:
        return _below(self.store.as_prefix(), key)

    @property
    def runs(self) -> Location:
        """The prefix of all runs: one folder per run, see RunLayout."""
        return self._at("runs/")

    def run(self, name: str) -> RunLayout:
        """The keys of one run. Raises ConfigError for a name that no run may have."""
        return RunLayout(self.store, name)

    @property
    def inbox(self) -> Location:
        """The prefix that is watched for manifests, where the settings name no other."""
        return self._at("inbox/")

    @property
    def claims(self) -> Location:
        """The prefix of the inbox's claims: `<mark>.json`, and `<mark>.triggered` once its run was triggered."""
        return self._at("claims/")

    def claim(self, mark: str) -> Location:
        """The claim of one manifest; put if absent, so that one claimant wins."""
        return _below(self.claims, mark + CLAIM_ENDING)

    def triggered(self, mark: str) -> Location:
        """The note that a claim's run was triggered."""
        return _below(self.claims, mark + TRIGGERED_ENDING)

    @property
    def jobs(self) -> Location:
        """The prefix of the standing jobs' entries, which people write: `<name>.yaml`."""
        return self._at("jobs/")

    def standing(self, name: str) -> Location:
        """The prefix of what a standing job has done: a folder per time that it was started."""
        return self._at(f"standing/{name}/")

    def standing_time(self, name: str, stamp: str, what: str = "") -> Location:
        """What belongs to one time, for example `20261126T220000Z`: `claim.json`, `manifest.jsonl`, `rows.txt.gz`,
        `triggered`, `settled`.
        """
        return _below(self.standing(name), f"{stamp}/{what}")

    def standing_taken(self, name: str) -> Location:
        """What the runs of a standing job have taken that ended well."""
        return _below(self.standing(name), "taken.txt.gz")

    @property
    def presets(self) -> Location:
        """The prefix of the presets, sets of options that people have named: `<name>.json`."""
        return self._at("presets/")

    def preset(self, name: str) -> Location:
        """One preset; replaced only by somebody who has read it as it is. `submitting.presets` checks the name."""
        return _below(self.presets, f"{name}.json")

    def views(self, reviewer: str = "") -> Location:
        """The views of the gallery that one person has named, by `reviewing.reviewers.key_of`; their prefix without."""
        return _below(self._at("views/"), f"{reviewer}.json") if reviewer else self._at("views/")

    @property
    def submitted(self) -> Location:
        """The prefix of manifests made of two prefixes for a run that a person asked for: `<run>.jsonl`."""
        return self._at("submitted/")

    def submitted_manifest(self, run: str) -> Location:
        """The manifest made for one run; put if absent."""
        return _below(self.submitted, f"{check_run_name(run)}.jsonl")

    @property
    def linked(self) -> Location:
        """The prefix of the galleries that links lead to: `<run>/until-<time>-<nonce>/`."""
        return self._at("linked/")

    def gallery(self, run: str, name: str) -> Location:
        """The prefix of one such gallery."""
        return _below(self.linked, f"{check_run_name(run)}/{name}/")

    def history(self, key: str) -> Location:
        """The prefix of what the runs of one model and tuning measured, for the next forecast: one object per run.

        Beside `runs/`, since looking for every `run.json` would list every object of every run.
        """
        return self._at(f"history/{key}/")

    def experience(self, key: str, run: str) -> Location:
        """What one run measured."""
        return _below(self.history(key), f"{run}.json")

    def is_kept_for_runs(self, where: Location) -> bool:
        """Whether an object or prefix lies where this program alone writes, or would hold such a place."""
        own = [
            self.runs, self.inbox, self.claims, self.jobs, self.presets, self.submitted, self.linked, self.views(),
            self._at("standing/"), self._at("history/"),
        ]  # fmt: skip
        return any(one.contains(where) or where.contains(one) for one in own)


CLAIM_ENDING = ".json"
TRIGGERED_ENDING = ".triggered"


@dataclass(frozen=True, slots=True)
class RunLayout:
    """The keys of one run, below `<store>/runs/<run>/`."""

    store: Location
    run: str
    _root: Location = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_run_name(self.run)
        object.__setattr__(self, "_root", _below(StoreLayout(self.store).runs, f"{self.run}/"))

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


def variant_name(name: str, variant: int | None) -> str:
    """What one of a row's variants is called: `chair.2`. None: the row has no variants, and its own name."""
    return name if variant is None else f"{name}.{variant}"


SIDE_PRODUCT_FORMATS: dict[SideProduct, Literal["png", "webp"]] = {"patch": "png", "mask": "png", "preview": "webp"}


def side_product_name(image: str, kind: SideProduct) -> str:
    """What a file beside an image is called: `chair.png` has the patch `chair.png.patch.png`."""
    return f"{image}.{kind}.{SIDE_PRODUCT_FORMATS[kind]}"


REJECTED = "rejected"
"""The shard name under which rejected rows' records are kept."""


def shard_name(index: int) -> str:
    """`00000`, `00001`, ..."""
    return f"{index:05d}"


def retry_shard_name(index: int, retry: int, nonce: str) -> str:
    """The name of a retry's shard. `nonce` has 8 hexadecimal digits: two who plan a retry at once have one each."""
    return f"{shard_name(index)}r{retry:04d}_{nonce}"


def retry_of(shard: str) -> int:
    """The number of the retry that a shard belongs to, from 1; 0 for a shard of the run itself and for `REJECTED`."""
    found = _RETRY_SHARD.fullmatch(shard)
    return int(found[1]) if found else 0
