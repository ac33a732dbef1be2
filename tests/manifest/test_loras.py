"""Which LoRAs a row names, in every format, and what is refused; and what a job makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inpaint_ops.config import Settings
from inpaint_ops.errors import ConfigError
from inpaint_ops.manifest.rows import AcceptedRow
from inpaint_ops.planning import JobOptions, job_options, planned
from inpaint_ops.records import LoraChoice
from inpaint_ops.row_work import reject_rows_without_steps
from tests.support.manifests import only_rejection, parquet, read

ROW = {"image": "a.png", "mask": "m.png", "prompt": "x"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("brand:0.8, style", ["brand:0.8", "style"]),
        (["brand:-1", "v1.2"], ["brand:-1", "v1.2"]),
        ({"brand": 0.8, "style": 1, "other": None}, ["brand:0.8", "style:1.0"]),
        ('{"brand": 0.8}', ["brand:0.8"]),
        ({"brand": 1e-7}, ["brand:1e-07"]),
        ("none", []), ([], []), ({}, []),
        ("", None), (None, None), ("  ", None),
    ],
)  # fmt: skip
def test_a_row_names_loras_in_several_ways(given: Any, meant: Any) -> None:
    parsed = read([ROW | {"loras": given}])
    assert not parsed.rejected, parsed.rejected[0].error.message
    assert parsed.accepted[0].loras == meant
    again = read([parsed.accepted[0].as_manifest_row()])
    assert again.accepted[0].loras == meant, "a failed row goes into a manifest again"


def test_tables_name_them_too() -> None:
    csv = 'image,mask,prompt,loras\na.png,m.png,x,"brand:0.8, style"\nb.png,m.png,x,\nc.png,m.png,x,none\n'
    assert [row.loras for row in read(csv.encode(), "m.csv").accepted] == [["brand:0.8", "style"], None, []]
    rows = [ROW | {"loras": {"brand": 0.8, "style": None}}, ROW | {"loras": {"brand": None, "style": 1.0}}, ROW]
    found = read(parquet(rows), "m.parquet").accepted
    assert [row.loras for row in found] == [["brand:0.8"], ["style:1.0"], None], "a column of objects has all names"
    lists = [ROW | {"loras": ["brand"]}, ROW | {"loras": None}]
    assert [row.loras for row in read(parquet(lists), "m.parquet").accepted] == [["brand"], None]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("brand:99", "number from -20 to 20"), ({"brand": True}, "weights of an object are numbers"),
        ({"brand": "0.8"}, "weights of an object are numbers"), ("brand, brand:1", "names 'brand' twice"),
        ([1], "a list of such texts"), (7, "a list of such texts"), (":0.5", "names no LoRA"), ("a/b", "names no LoRA"),
        (",".join(f"l{i}" for i in range(17)), "at most 16"), ("{bad", "no JSON"),
    ],
)  # fmt: skip
def test_what_names_no_loras_is_rejected_with_the_field(given: Any, says: str) -> None:
    error = only_rejection(read([ROW | {"loras": given, "id": "bad"}, ROW]))
    assert says in error and "loras" in error and "row 1" in error


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("my lora (v2).safetensors", "'my lora .v2.' has others: name it, NAME=PATH"),
        ("a,b.safetensors", "'a,b' has others: name it"), ("x:2.safetensors", "'x:2' has others: name it"),
        ("a.safetensors:", "name it, NAME=PATH"), ("", "name it, NAME=PATH"),
        ("none.safetensors", "cannot be called `none`.*name it, NAME=PATH"), ("a.safetensors:99", "equal to 20"),
    ],
)  # fmt: skip
def test_a_file_whose_name_rows_could_not_write_is_to_be_named(given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^loras\.0\.(name|weight): .*{says}"):
        job_options(Settings(), loras=(given,))
    if "equal" not in says and given.strip(":"):
        (named,) = job_options(Settings(), loras=(f"own={given}",)).loras
        assert (named.name, named.place) == ("own", given)


def test_a_row_gets_the_jobs_weights_or_its_own() -> None:
    job = JobOptions.model_validate({"model": "m", "loras": ["brand.safetensors:0.5", "s=/x/style-v2.safetensors"]})
    assert job.loras == (
        LoraChoice(name="brand", place="brand.safetensors", weight=0.5),
        LoraChoice(name="s", place="/x/style-v2.safetensors"),
    )

    def weights(loras: Any) -> dict[str, float]:
        row = AcceptedRow(row=1, id="a", image="s3://b/a", mask="s3://b/m", prompt="x", loras=loras)
        return planned(row, job).parameters.loras

    assert weights(None) == {"brand": 0.5, "s": 1.0} and weights("none") == {}
    assert weights("brand, s:-2") == {"brand": 0.5, "s": -2.0}
    parsed = read([ROW | {"loras": "style"}, ROW | {"id": "b", "loras": "s"}])
    kept, work = reject_rows_without_steps(parsed, job)
    assert [row.id for row in kept.accepted] == ["b"] and len(work.steps) == 1
    message = kept.rejected[0].error.message
    assert message == (
        "row 1: loras: the job has no LoRA called 'style' (it has: brand, s): give it with --lora style=PATH, "
        "or correct the row"
    )
    assert kept.rejected[0].as_manifest_row()["loras"] == ["style"], "to correct"


@pytest.mark.parametrize(
    ("text", "name", "place", "weight"),
    [
        ("a/brand.safetensors", "brand", "a/brand.safetensors", 1.0),
        ("a/brand.safetensors:.5", "brand", "a/brand.safetensors", 0.5),
        ("s3://b/l/x.v2.safetensors:-1", "x.v2", "s3://b/l/x.v2.safetensors", -1.0),
        ("my=s3://b/x", "my", "s3://b/x", 1.0),
        ("folder/", "folder", "folder/", 1.0),
    ],
)
def test_a_lora_is_named_on_the_command_line(text: str, name: str, place: str, weight: float) -> None:
    (found,) = JobOptions.model_validate({"model": "m", "loras": [text]}).loras
    assert (found.name, found.place, found.weight) == (name, place, weight)
    assert found.is_in_store == ("://" in text)
    (same,) = JobOptions.model_validate_json(
        JobOptions.model_validate({"model": "m", "loras": [text]}).model_dump_json()
    ).loras
    assert same == found


@pytest.mark.parametrize(
    ("loras", "says"),
    [(["a/x.safetensors", "b/x.safetensors"], "two LoRAs are called 'x'.*NAME=b/x"), (["x:99"], "less than or equal"),
     ([f"{i}" for i in range(17)], "at most 16")],
)  # fmt: skip
def test_what_a_job_cannot_have_is_a_line(loras: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=f"loras.*{says}"):
        job_options(Settings(), model="m", loras=loras)


def test_settings_have_loras_for_every_job_and_a_choice_replaces_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INPAINT_LORAS", "a.safetensors:0.5, b=c.safetensors")
    assert [(one.name, one.weight) for one in job_options(Settings()).loras] == [("a", 0.5), ("b", 1.0)]
    assert [one.name for one in job_options(Settings(), loras=["z.safetensors"]).loras] == ["z"]
    assert json.loads(json.dumps(job_options(Settings()).identity()))["loras"][0]["place"] == "a.safetensors"
