"""Where every object of a store lives that belongs to no single run."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from inpaint_ops.layout.names import check_run_name
from inpaint_ops.layout.run import RUNS, RunLayout, below
from inpaint_ops.locations import Location

CLAIM_ENDING = ".json"
TRIGGERED_ENDING = ".triggered"

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


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """The keys of one store. Each prefix ends with a slash."""

    store: Location

    def _at(self, key: str) -> Location:
        return below(self.store.as_prefix(), key)

    @property
    def runs(self) -> Location:
        """The prefix of all runs: one folder per run, see RunLayout."""
        return self._at(RUNS)

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
        return below(self.claims, mark + CLAIM_ENDING)

    def triggered(self, mark: str) -> Location:
        """The note that a claim's run was triggered."""
        return below(self.claims, mark + TRIGGERED_ENDING)

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
        return below(self.standing(name), f"{stamp}/{what}")

    def standing_arrival(self, name: str) -> Location:
        """Written anew each time that the store tells of an arrival: a start that is older may not have seen it."""
        return below(self.standing(name), "arrival")

    def standing_taken(self, name: str) -> Location:
        """What the runs of a standing job have taken that ended well."""
        return below(self.standing(name), "taken.txt.gz")

    @property
    def presets(self) -> Location:
        """The prefix of the presets, sets of options that people have named: `<name>.json`."""
        return self._at("presets/")

    def preset(self, name: str) -> Location:
        """One preset; replaced only by somebody who has read it as it is. `submitting.presets` checks the name."""
        return below(self.presets, f"{name}.json")

    def views(self, reviewer: str = "") -> Location:
        """The views of the gallery that one person has named, by `reviewing.reviewers.key_of`; their prefix without."""
        return below(self._at("views/"), f"{reviewer}.json") if reviewer else self._at("views/")

    @property
    def submitted(self) -> Location:
        """The prefix of manifests made of two prefixes for a run that a person asked for: `<run>.jsonl`."""
        return self._at("submitted/")

    def submitted_manifest(self, run: str) -> Location:
        """The manifest made for one run; put if absent."""
        return below(self.submitted, f"{check_run_name(run)}.jsonl")

    @property
    def linked(self) -> Location:
        """The prefix of the galleries that links lead to: `<run>/until-<time>-<nonce>/`."""
        return self._at("linked/")

    def gallery(self, run: str, name: str) -> Location:
        """The prefix of one such gallery."""
        return below(self.linked, f"{check_run_name(run)}/{name}/")

    def history(self, key: str) -> Location:
        """The prefix of what the runs of one model and tuning measured, for the next forecast: one object per run.

        Beside `runs/`, since looking for every `run.json` would list every object of every run.
        """
        return self._at(f"history/{key}/")

    def experience(self, key: str, run: str) -> Location:
        """What one run measured."""
        return below(self.history(key), f"{run}.json")

    def is_kept_for_runs(self, where: Location) -> bool:
        """Whether an object or prefix lies where this program alone writes, or would hold such a place."""
        own = [
            self.runs, self.inbox, self.claims, self.jobs, self.presets, self.submitted, self.linked, self.views(),
            self._at("standing/"), self._at("history/"),
        ]  # fmt: skip
        return any(one.contains(where) or where.contains(one) for one in own)
