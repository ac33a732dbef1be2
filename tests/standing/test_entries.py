"""What a person may write into `jobs/`, and what is refused in one line with the field and the cure."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError
from inpaint_ops.runs import Workspace
from inpaint_ops.standing.entries import MAX_BYTES, Entry, parse_entry, read_entries

GOOD = b"""
# every evening
schedule: '0 22 * * 1-5'
timezone: Europe/Berlin
images: s3://bucket/photos/
masks: s3://bucket/masks/
options: {prompt: "a {color} sofa", quality: best, batch_size: 4, tuning_overrides: {vae_tiling: true}}
"""


def test_an_entry_says_all_that_a_run_needs() -> None:
    entry = parse_entry(GOOD)
    job = entry.job(Settings())
    assert (job.quality, job.prompt, job.tuning_overrides) == (
        "best", "a {color} sofa", {"batch_size": 4, "vae_tiling": True},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "write fields"),
        ("- a", "write fields"),
        ("schedule: [", "no YAML: line"),
        ("\x00", "no YAML"),
        ("manifest: s3://b/a.jsonl\nmanifest: s3://b/b.jsonl", "line 2: 'manifest' stands twice"),
        ("a: &x [1]\nb: *x", "line 2: aliases are not read"),
        ("!!python/object/apply:os.system ['true']", "no YAML: line 1"),
        ("{}", "give `manifest`, or `images`"),
        ("{manifest: s3://b/a.jsonl, images: b/}", "and not both"),
        ("{manifest: s3://b/a.jsonl, masks: b/}", "masks: only with `images`"),
        ("{images: b/}", "no prompt"),
        ("{manifest: s3://b/a.jsonl, shedule: '@daily'}", "shedule: there is no such field; there are schedule"),
        ("{manifest: s3://b/a.jsonl, schedule: '0 22 * *'}", "schedule: write five fields"),
        ("{manifest: s3://b/a.jsonl, schedule: '0 22 * * * *'}", "schedule: write five fields"),
        ("{manifest: s3://b/a.jsonl, schedule: 'R * * * *'}", "schedule: write five fields"),
        ("{manifest: s3://b/a.jsonl, schedule: '61 * * * *'}", "'61 * * * *' is no schedule"),
        ("{manifest: s3://b/a.jsonl, schedule: '0 0 30 2 *'}", "'0 0 30 2 *' is no schedule"),
        ("{manifest: s3://b/a.jsonl, schedule: '@reboot'}", "is no schedule"),
        ("{manifest: s3://b/a.jsonl, timezone: Mars/Olympus}", "timezone: there is no time zone 'Mars/Olympus'"),
        ("{manifest: s3://b/a.jsonl, timezone: ../../etc/passwd}", "timezone: there is no time zone"),
        ("{manifest: s3://b/a.jsonl, options: {device: cpu}}", "options: unknown device; it may hold batch_size"),
        ("{manifest: s3://b/a.jsonl, options: {run: x}}", "options: unknown run"),
        ("{manifest: '', options: {}}", "manifest: "),
        (
            "{manifest: s3://b/a.jsonl, enabled: maybe}",
            "enabled: Input should be a valid boolean, unable to interpret input: write true",
        ),
        (
            "schedule: * * * * *\nmanifest: s3://b/a.jsonl",
            "line 1: expected alphabetic or numeric character, but found ' '; write the",
        ),
        (
            "manifest: s3://b/a.jsonl\nschedule: @daily",
            "line 2: found character '@' that cannot start any token; write the value",
        ),
        (
            "{manifest: s3://b/a.jsonl, schedule: 2026-11-27}",
            "schedule: Input should be a valid string: write it in quotes",
        ),
        ("manifest: s3://b/a.jsonl\noptions:\n\tsteps: 4", "line 3: found character '\\t'"),
        ("{manifest: a.jsonl}", "manifest: 'a.jsonl' is not a whole location"),
        ("{images: 'photos\\a/', options: {prompt: x}}", "images: 'photos"),
        ("{images: s3://b/p/, masks: ../m/, options: {prompt: x}}", "masks: '../m/' is not a whole location"),
        ("{images: s3://b/p/, prompts: p.csv}", "prompts: 'p.csv' is not a whole location"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_the_field(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_entry(text.encode())
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_utf_8_says_so_and_one_of_windows_is_read() -> None:
    with pytest.raises(ConfigError, match=r"no YAML: .*; save it as UTF-8"):
        parse_entry("{images: s3://b/p/, options: {prompt: ein grünes Sofa}}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"no YAML: .*; leave such characters out"):
        parse_entry(b"{images: s3://b/p/, options: {prompt: '\x01'}}")
    for encoding in ("utf-8-sig", "utf-16"):
        entry = parse_entry("images: s3://b/p/\r\noptions: {prompt: grün}\r\n".encode(encoding))
        assert entry.options == {"prompt": "grün"}


@given(st.binary(max_size=300))
def test_any_bytes_are_an_entry_or_one_error(data: bytes) -> None:
    try:
        assert isinstance(parse_entry(data), Entry)
    except ConfigError as error:
        assert str(error)


def test_a_wrong_option_names_its_field_and_a_deep_file_ends() -> None:
    with pytest.raises(ConfigError, match="steps"):
        parse_entry(b"{manifest: s3://b/a.jsonl, options: {steps: 0}}").job(Settings())
    with pytest.raises(ConfigError, match="options: prompt: Input should be a valid string: write it in quotes"):
        parse_entry(b"{manifest: s3://b/a.jsonl, options: {prompt: 12}}").job(Settings())
    with pytest.raises(ConfigError, match="no YAML"):
        parse_entry(b"[" * 30_000)


@pytest.mark.parametrize(
    ("schedule", "zone", "at", "last", "following"),
    [
        ("0 22 * * *", "UTC", "2026-11-26T22:00:00", "2026-11-26T22:00:00", "2026-11-27T22:00:00"),
        ("0 22 * * *", "UTC", "2026-11-26T21:59:59", "2026-11-25T22:00:00", "2026-11-26T22:00:00"),
        ("0 22 * * *", "Europe/Berlin", "2026-07-01T20:30:00", "2026-07-01T20:00:00", "2026-07-02T20:00:00"),
        ("0 22 * * *", "Europe/Berlin", "2026-12-01T20:30:00", "2026-11-30T21:00:00", "2026-12-01T21:00:00"),
        ("@hourly", "UTC", "2026-11-26T21:59:59", "2026-11-26T21:00:00", "2026-11-26T22:00:00"),
        ("0 9 * * mon-fri", "UTC", "2026-11-29T12:00:00", "2026-11-27T09:00:00", "2026-11-30T09:00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T12:00:00", "2026-03-29T01:00:00", "2026-03-30T00:30:00"),
    ],
)  # fmt: skip
def test_times_are_those_of_the_zone(schedule: str, zone: str, at: str, last: str, following: str) -> None:
    entry = Entry(schedule=schedule, timezone=zone, manifest="s3://b/a.jsonl")
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert entry.last_time(moment) == datetime.fromisoformat(last).replace(tzinfo=UTC)
    assert entry.next_time(moment) == datetime.fromisoformat(following).replace(tzinfo=UTC)


def test_each_entry_costs_only_itself(tmp_path: Path) -> None:
    jobs = tmp_path / "store/jobs"
    jobs.mkdir(parents=True)
    (jobs / "good.yaml").write_text("manifest: s3://b/a.jsonl")
    (jobs / "good.yml").write_text("manifest: s3://b/a.jsonl")
    (jobs / "bad.yaml").write_text("manifest: [")
    (jobs / "large.yaml").write_text("#" * (MAX_BYTES + 1))
    (jobs / "{{ 7 }}.yaml").write_text("manifest: s3://b/a.jsonl")
    (jobs / "notes.txt").write_text("not an entry")
    (jobs / "below").mkdir()
    (jobs / "below/deep.yaml").write_text("manifest: s3://b/a.jsonl")
    workspace = Workspace.open(Settings(scratch=tmp_path / "scratch"), store=str(tmp_path / "store"))
    found = {info.location.name: entry for _, info, entry in read_entries(workspace)}
    assert sorted(found) == ["bad.yaml", "good.yaml", "good.yml", "large.yaml", "{{ 7 }}.yaml"]
    assert isinstance(found["good.yaml"], Entry)
    why = {name: str(entry) for name, entry in found.items() if isinstance(entry, ConfigError)}
    assert "no YAML" in why["bad.yaml"] and "there is another entry good" in why["good.yml"]
    assert "larger than" in why["large.yaml"] and "name it with letters" in why["{{ 7 }}.yaml"]
