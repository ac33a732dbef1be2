"""What is known of a job before a device is used, part by part, the quick parts first.

Whoever calls this may stop it at any moment: each part is reported as soon as it is known.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Literal

from inpaint_ops.errors import InpaintOpsError, ManifestError, ObjectNotFoundError
from inpaint_ops.locations import without_secrets
from inpaint_ops.manifest import ManifestLimits, ParsedManifest
from inpaint_ops.manifest.reading import read_manifest
from inpaint_ops.planning import JobOptions
from inpaint_ops.previews import Limits
from inpaint_ops.records import Forecast, Model
from inpaint_ops.records.base import duration_in_words
from inpaint_ops.runs import Workspace, plan_of, refusal
from inpaint_ops.runs.checking import check_models
from inpaint_ops.runs.missing import missing_objects
from inpaint_ops.runs.reading_rows import read_rows
from inpaint_ops.runs.sampling import spread_over
from inpaint_ops.submitting.asking import Request, rows_of_folders
from inpaint_ops.tuning import check_choices
from inpaint_ops.wording import counted

Part = Literal["options", "run", "rows", "forecast", "sample", "model", "files", "pictures"]
State = Literal["good", "odd", "wrong", "unknown"]
PARTS: tuple[Part, ...] = ("options", "run", "rows", "forecast", "sample", "model", "files", "pictures")
"""In the order in which they are looked at."""

SHOWN = 20
"""Lines of a part, at most: rejected rows, missing files."""
LINE = 500
"""Characters of a line, at most."""
MOST_READ = 20
"""Rows whose image and mask are read."""
_READ_SECONDS = 10
"""No further row is begun to be read after so long: whoever waits sees all parts at once."""
_LIMITS = Limits(memory_bytes=2**31, cpu_seconds=20)
"""Of one row that is read: whoever waits for it has half a minute."""
FIRST_ROWS = 1000
"""Rows of a large manifest that are looked at first."""
LARGE_BYTES = 4 * 2**20
"""From which size on a manifest's first rows are looked at before the whole."""


class Finding(Model):
    """What is known of one part. `wrong`: the run would be refused or paint nothing; `unknown`: not found out."""

    part: Part
    state: State
    text: str
    lines: tuple[str, ...] = ()
    whole: bool = True
    """Whether the part was looked at to its end."""


Say = Callable[[Finding], None]


def look_at(
    workspace: Workspace, request: Request, run: str, say: Say, *, devices: int = 1, card: str | None = None
) -> None:
    """Say each part of what is known of the job, the whole run's name being `run`.

    A part may be reported twice: first of what could be looked at quickly. Raises nothing of ours: errors are findings.
    """
    found = _Looking(workspace, request, run, say, devices, card)
    parts: tuple[tuple[Part, Callable[[], None]], ...] = (
        ("options", found.options), ("run", found.name), ("rows", found.rows), ("forecast", found.forecasts),
        ("model", found.model), ("files", found.files), ("pictures", found.pictures),
    )  # fmt: skip
    for part, look in parts:
        try:
            look()
        except InpaintOpsError as error:
            about = refusal(error, run=run, manifest=request.manifest or "")
            found.say(part, "wrong" if error.permanent else "unknown", about.message, [about.cure])
            if part in ("options", "rows", "forecast"):  # the parts behind it are of these rows
                return


class _Looking:
    def __init__(
        self, workspace: Workspace, request: Request, run: str, say: Say, devices: int, card: str | None
    ) -> None:
        self.workspace, self.request, self.run = workspace, request, run
        self.devices, self.card = devices, card
        self._say = say
        self._job: JobOptions | None = None
        self._read: tuple[ParsedManifest, str, str] | None = None

    def say(
        self, part: Part, state: State, text: str, lines: Iterable[str] = (),
        *, whole: bool = True,
    ) -> None:  # fmt: skip
        shown = tuple(_cut(line) for line in itertools.islice(lines, SHOWN))
        self._say(Finding(part=part, state=state, text=_cut(text), lines=shown, whole=whole))

    @property
    def job(self) -> JobOptions:
        assert self._job is not None
        return self._job

    def options(self) -> None:
        self._job = self.request.job(self.workspace.settings)
        check_choices(self.job.tuning, self.job.tuning_overrides)
        job = self.job
        steps = f"{job.steps} steps" if job.steps is not None else f"quality {job.quality}"
        self.say("options", "good", f"{job.model}, {steps}, tuning {job.tuning}")

    def name(self) -> None:
        standing = self.workspace.plan(self.run)
        if standing is None:
            self.say("run", "good", f"The run is called {self.run}: no other has this name.")
        else:
            self.say(
                "run", "wrong", f"There is a run {self.run}, planned {standing.created_at:%Y-%m-%d %H:%M} UTC.",
                ["Choose another name. The same manifest with the same options would only do what is missing there."],
            )  # fmt: skip

    def rows(self) -> None:
        self._read = self._folders() if self.request.manifest is None else self._manifest(self.request.manifest)

    def _folders(self) -> tuple[ParsedManifest, str, str]:
        body, _, notes = rows_of_folders(self.workspace, self.request)
        settings = self.workspace.settings
        limits = ManifestLimits(
            max_rows=settings.max_rows, max_bytes=max(settings.max_manifest_bytes, 1),
            max_prompt_chars=settings.max_prompt_chars, max_row_bytes=settings.max_row_bytes,
        )  # fmt: skip
        place = self.workspace.places.submitted_manifest(self.run)
        parsed = read_manifest(
            body, location=place, is_allowed=self.workspace.storage.may_read_each(), limits=limits,
            row_limit=self.job.row_limit, defaults=self.job.row_defaults(),
        )  # fmt: skip
        self._say_rows(parsed, notes)
        return parsed, hashlib.sha256(body).hexdigest(), place.uri

    def _manifest(self, manifest: str) -> tuple[ParsedManifest, str, str]:
        first = min(self.job.row_limit or FIRST_ROWS, FIRST_ROWS)
        if first != self.job.row_limit and self._is_large(manifest):
            parsed, _ = self.workspace.read_manifest(manifest, first, self.job.row_defaults())
            self._say_rows(parsed, whole=False)
        parsed, digest = self.workspace.read_manifest(manifest, self.job.row_limit, self.job.row_defaults())
        self._say_rows(parsed)
        return parsed, digest, manifest

    def _is_large(self, manifest: str) -> bool:
        try:
            return self.workspace.storage.stat(manifest).size >= LARGE_BYTES
        except ObjectNotFoundError:  # a folder of Parquet files, or nothing
            return False

    def _say_rows(self, parsed: ParsedManifest, alone: tuple[str, ...] = (), *, whole: bool = True) -> None:
        good, bad = len(parsed.accepted), len(parsed.rejected)
        size = counted(parsed.rows, "row")
        text = f"{f'{size}: ' if whole else f'Of the first {size} '}{good:,} can be painted, {bad:,} rejected"
        lines = itertools.chain((row.error.message for row in parsed.rejected), alone, parsed.notes)
        self.say("rows", "wrong" if not good else "odd" if bad or alone else "good", text, lines, whole=whole)

    def forecasts(self) -> None:
        assert self._read is not None
        parsed, digest, manifest = self._read
        if not parsed.accepted:
            raise ManifestError("no row can be painted: correct the rows, as each error says")
        whole: Part = "forecast"
        sample: Part = "sample"
        for part, job in ((whole, self.job), (sample, self.job.model_copy(update={"sample": self.request.sample}))):
            plan, _ = plan_of(
                self.workspace, parsed, digest, manifest, self.run, job, card=self.card, devices=self.devices
            )
            rows, tasks, expected = plan.rows - plan.rejected, len(plan.shards), plan.forecast
            size = f"{counted(rows, 'row')} in {counted(tasks, 'task')}"
            if expected is None or expected.gpu_seconds is None:
                self.say(part, "unknown", f"{size}; how long they take is {expected.basis if expected else 'unknown'}")
            else:
                self.say(part, "good", f"{size}: {_expected(expected)}", [f"By {expected.basis}."])

    def model(self) -> None:
        job = self.job
        if notes := check_models(self.workspace.storage, job, must_be_here=False):
            self.say("model", "unknown", "Whether the machines that paint have it is not known here.", notes)
        else:
            self.say(
                "model", "good", f"{job.model} is in this machine's cache, or comes with the package. A machine that "
                "paints may have another cache.",
            )  # fmt: skip

    def files(self) -> None:
        assert self._read is not None
        lines = missing_objects(self.workspace.storage, self._read[0], ask_each=False)
        shown = list(itertools.islice(lines, SHOWN))
        missing = len(shown) + sum(1 for _ in lines)
        if missing:
            absent = counted(missing, "image or mask is", "images or masks are")
            text = f"{absent} not there. Such a row fails unless its file comes before."
            self.say("files", "odd", text, shown)
        else:
            self.say(
                "files", "good", "No image or mask is known to be missing. A folder that holds far more than these "
                "rows want is not listed, and its files are not looked for.",
            )  # fmt: skip

    def pictures(self) -> None:
        """Those of the rows that the sample paints are read as a worker would read them."""
        assert self._read is not None
        accepted = self._read[0].accepted
        until = time.monotonic() + _READ_SECONDS
        rows = itertools.takewhile(
            lambda _: time.monotonic() < until, spread_over(accepted, min(self.request.sample, MOST_READ))
        )
        read = read_rows(self.workspace.storage, self.workspace.settings, self.job, rows, limits=_LIMITS, at_once=2)
        text, *notes = read.notes(len(accepted))
        is_odd = bool(read.problems) or read.is_mostly_masked
        state: State = "odd" if is_odd else "unknown" if read.not_read or not read.rows else "good"
        self.say("pictures", state, f"{text}.", [*read.problems, *notes])


def _expected(forecast: Forecast) -> str:
    assert forecast.seconds is not None
    assert forecast.gpu_seconds is not None
    devices = counted(forecast.devices, "device")
    hours = forecast.gpu_seconds / 3600
    cost = f", cost {forecast.cost:,.2f}" if forecast.cost is not None else ""
    return f"about {duration_in_words(forecast.seconds)} on {devices}, {hours:,.3g} GPU-hours{cost}"


def _cut(text: str) -> str:
    plain = without_secrets(" ".join(text.split()))
    return plain if len(plain) <= LINE else plain[: LINE - 1] + "…"
