"""The DAGs: their forms validate, tasks are pooled and limited, and nothing is a template."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.support.fresh_python import run_python

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def manifest_dag(tmp_path_factory: pytest.TempPathFactory) -> Any:
    os.environ.setdefault("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
    sys.path[:0] = [str(REPOSITORY / "dags")]
    import inpaint_manifest

    return inpaint_manifest.inpaint_manifest()


GOOD = {"manifest": "s3://bucket/inbox/night.jsonl"}


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {**GOOD, "steps": 0},
        {**GOOD, "steps": "many"},
        {**GOOD, "quality": "ultra"},
        {**GOOD, "batch_size": 65},
        {**GOOD, "tuning": "faster"},
        {**GOOD, "row_limit": 0},
        {**GOOD, "failure_threshold": 1.5},
        {**GOOD, "run": "night", "retry": ["a"]},
        {**GOOD, "tuning_overrides": "vae_tiling=true"},
        {**GOOD, "use_xformers": "perhaps"},
        {**GOOD, "scheduler": "magic"},
    ],
)
def test_the_trigger_form_refuses_what_cannot_work(manifest_dag: Any, conf: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        _merged(manifest_dag, conf).validate()


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"manifest": "night.jsonl"}, "write its URI"),
        ({"manifest": "http://example.org/night.jsonl"}, "http:// is not supported"),
        ({"manifest": "{store}/night.txt"}, "is not a manifest format"),
        ({"run": "../other"}, "use letters, digits"),
        ({"run": "night", "retry": ""}, "names no rows"),
        ({"run": "night", "retry": "a,,b"}, "has an empty part"),
    ],
)
def test_what_the_form_lets_pass_is_refused_in_words(
    manifest_dag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: dict[str, Any], words: str
) -> None:
    """Through the task's own function, with a context as Airflow gives it."""
    import inpaint_manifest
    from airflow.sdk.exceptions import AirflowFailException

    for name in ("night.jsonl", "night.txt"):
        (tmp_path / name).write_text('{"image": "a.png", "mask": "b.png", "prompt": "x"}\n')
    wanted = {"manifest": "{store}/night.jsonl", **conf}
    params = _merged(manifest_dag, wanted | {"manifest": wanted["manifest"].format(store=tmp_path)}).validate()
    pushed: dict[str, Any] = {}

    class Instance:
        def xcom_push(self, key: str, value: Any) -> None:
            pushed[key] = value

    context = {"params": params, "run_id": "manual__1", "ti": Instance()}
    monkeypatch.setattr(inpaint_manifest, "get_current_context", lambda: context)
    monkeypatch.setenv("INPAINT_STORE", str(tmp_path))
    with pytest.raises(AirflowFailException, match=re.escape(words)):
        manifest_dag.get_task("plan").python_callable()
    assert words in pushed["refused"]["message"]


def _merged(dag: Any, conf: dict[str, Any]) -> Any:
    import copy

    params = copy.deepcopy(dag.params)
    params.update(conf)
    return params


def test_the_trigger_form_takes_a_good_job(manifest_dag: Any) -> None:
    params = _merged(
        manifest_dag, {**GOOD, "quality": "best", "batch_size": 4, "tuning": "notes", "failure_threshold": 0.1}
    )
    assert params.validate()["quality"] == "best"
    for rows in ("failed", "unchanged,rejected", "chair 7,id:failed"):
        assert _merged(manifest_dag, {**GOOD, "run": "night", "retry": rows}).validate()["retry"] == rows


def test_the_form_names_every_scheduler_and_its_choices_reach_the_job(manifest_dag: Any) -> None:
    from inpaint_ops.config import Scheduler, Settings
    from inpaint_ops.planning import job_options

    for name in manifest_dag.params:
        schema = manifest_dag.params.get_param(name).schema
        if None in schema.get("enum", ()):  # Airflow's form would show the choice as "null"
            shown = {"few_step": "no", "pick": "the first"}.get(name, "as the settings say")
            assert schema["values_display"] == {"null": shown}, name
    assert manifest_dag.params.get_param("scheduler").schema["enum"] == [None, *get_args(Scheduler)]
    conf = {**GOOD, "tuning_overrides": {"vae_tiling": True}, "use_xformers": False, "scheduler": "ddim",
            "blend": "poisson", "match": "mean", "grain": "match", "sharpen": "match", "fill": "noise",
            "variants": 4, "pick": "best", "guidance_cutoff": 0.6, "names": "{folder}/{stem}.{ext}",
            "guidance_scale": 4, "strength": 0.8, "profile": True, "side_products": ["mask", "patch"]}  # fmt: skip
    chosen = _merged(manifest_dag, conf).validate()
    job = job_options(Settings(), **{name: value for name, value in chosen.items() if name not in ("manifest", "run")})
    assert (job.tuning_overrides, job.use_xformers, job.scheduler) == ({"vae_tiling": True}, False, "ddim")
    assert (job.blend, job.match, job.grain, job.sharpen) == ("poisson", "mean", "match", "match")
    assert (job.fill, job.names) == ("noise", "{folder}/{stem}.{ext}")
    assert (job.guidance_cutoff, job.guidance_scale, job.strength) == (0.6, 4, 0.8)
    assert (job.variants, job.pick, job.profile, job.side_products) == (4, "best", True, ("patch", "mask"))
    conf = {
        **GOOD,
        "model": "/m/a.safetensors",
        "vae": "/v",
        "tokenizer": "/t",
        "fill": "lama",
        "fill_model": "/m/lama.onnx",
        "loras": ["b=s3://x/y:0.5"],
        "few_step": "lcm",
    }
    chosen = _merged(manifest_dag, conf).validate()
    job = job_options(Settings(), **{name: value for name, value in chosen.items() if name not in ("manifest", "run")})
    assert (job.model, job.vae, job.tokenizer, job.scheduler, job.steps) == ("/m/a.safetensors", "/v", "/t", "lcm", 4)
    assert [(one.name, one.place, one.weight) for one in job.loras] == [("b", "s3://x/y", 0.5)]
    assert (job.fill, job.fill_model) == ("lama", "/m/lama.onnx")


def test_a_standing_job_may_choose_what_the_form_offers(manifest_dag: Any) -> None:
    from inpaint_ops.standing.entries import OPTIONS

    assert {*manifest_dag.params} - {"manifest", "run", "retry"} == OPTIONS


def test_the_painting_task_is_pooled_queued_and_retried(manifest_dag: Any) -> None:
    task = manifest_dag.task_dict["inpaint"]
    assert (task.partial_kwargs["pool"], task.partial_kwargs["queue"], task.partial_kwargs["retries"]) == (
        "gpu",
        "gpu",
        3,
    )
    assert task.partial_kwargs["execution_timeout"].total_seconds() == 6 * 3600 + 600
    assert manifest_dag.task_dict["report"].trigger_rule == "all_done"


LIMITS = """
import os, sys
sys.path[:0] = [{repository!r}, {dags!r}]
import airflow.sdk
for settings in {settings!r}:
    child = os.fork()
    if not child:
        os.environ.update(settings)
        import inpaint_manifest
        task = inpaint_manifest.inpaint_manifest().task_dict["inpaint"].partial_kwargs
        print(inpaint_manifest.TRIES, inpaint_manifest.SHARD_TIMEOUT.total_seconds(), task["retries"],
              task["execution_timeout"].total_seconds(), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, settings
"""


def test_tries_and_the_time_limit_are_the_settings_and_airflow_ends_what_outlives_it(tmp_path: Path) -> None:
    from inpaint_ops.config import Settings

    settings = (
        {},
        {"INPAINT_TRIES": "", "INPAINT_SHARD_TIMEOUT": ""},
        {"INPAINT_TRIES": "2", "INPAINT_SHARD_TIMEOUT": "60"},
    )
    program = LIMITS.format(repository=str(REPOSITORY), dags=str(REPOSITORY / "dags"), settings=settings)
    assert run_python(tmp_path, program).splitlines() == [
        "4 21600.0 3 22200.0",
        "4 21600.0 3 22200.0",
        "2 60.0 1 660.0",
    ]
    fields = Settings.model_fields
    assert (fields["tries"].default, fields["shard_timeout"].default) == (4, 21600)


def _templates(tmp_path: Path, folder: Path) -> tuple[list[str], list[str]]:
    """The operators in the folder's DAGs, and what of them Jinja would render."""
    program = f"import sys; sys.path[:0] = [{str(REPOSITORY)!r}]\n"
    program += f"from tests.support.dag_templates import main; main({str(folder)!r})"
    lines = run_python(tmp_path, program).splitlines()
    looked = [line.removeprefix("looked at ") for line in lines if line.startswith("looked at ")]
    return looked, [line.removeprefix("found ") for line in lines if line.startswith("found ")]


def test_nothing_of_any_dag_is_a_template_that_text_from_outside_could_reach(tmp_path: Path) -> None:
    looked, found = _templates(tmp_path, REPOSITORY / "dags")
    assert found == []
    assert {name.partition(".")[2] for name in looked} == {
        "plan", "inpaint", "report", "claim", "trigger", "fetch", "store", "model_cache", "look", "problems", "deliver",
    }  # fmt: skip


TEMPLATED = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import AsyncCallback, BaseNotifier, BaseOperatorLink, DeadlineAlert, DeadlineReference, dag, task
from datetime import timedelta
from inpaint_ops_airflow.metrics import deadline_missed
from inpaint_ops_airflow.operators import PlainOperator, PlainTrigger, plain_task

class Linked(PlainOperator):
    operator_extra_links = (type("Other", (BaseOperatorLink,), {{"name": "x", "get_link": lambda *a, **k: ""}})(),)

class Notifier(BaseNotifier):
    template_fields = ("message",)
    message = "x"
    def notify(self, context): ...

def say(name=None): ...

@dag(dag_id="bad_{number}", schedule=None, {options})
def bad():
    @plain_task
    def names():
        return ["x"]
    {body}

bad()
"""


BAD = [
    ("", "BashOperator(task_id='b', bash_command='echo x')", "bash_command"),
    ("", "BashOperator.partial(task_id='b').expand(bash_command=names())", "bash_command"),
    ("", "task(say)(names())", "op_args"),
    ("", "task(say).expand(name=names())", "op_kwargs"),
    ("", "TriggerDagRunOperator.partial(task_id='b', trigger_dag_id='x').expand(conf=names())", "conf"),
    ("", "PlainTrigger.partial(task_id='b', trigger_dag_id='x', map_index_template='{{ task.conf }}')"
     ".expand(conf=names())", "map_index_template"),
    ("", "plain_task(say, map_index_template='{{ params.manifest }}').expand(name=names())", "map_index_template"),
    ("", "plain_task(say, doc_md='{{ params.manifest }}')()", "doc_md"),
    ("", "plain_task(say, on_failure_callback=Notifier())()", "notifier"),
    ("", "plain_task(say, email='a@b.c')()", "e-mails"),
    ("", "Linked(task_id='b', python_callable=say)", "link"),
    ("doc_md='{{ params }}'", "names()", "doc_md"),
    ("render_template_as_native_obj=True", "names()", "sandbox"),
    ("params={'x': '{{ conn }}'}", "names()", "parameter x"),
    ("deadline=DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, timedelta(1), AsyncCallback(deadline_missed, "
     "{'text': '{{ dag_run }}'}))", "names()", "deadline"),
]  # fmt: skip
"""Options of a DAG, a task in it, and what is found there."""


def test_a_template_in_a_dag_would_be_found(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    for number, (options, body, _) in enumerate(BAD):
        (folder / f"bad_{number}.py").write_text(TEMPLATED.format(number=number, options=options, body=body))
    _, found = _templates(tmp_path, folder)
    for number, (_, body, said) in enumerate(BAD):
        of_it = [line for line in found if line.startswith((f"bad_{number}.", f"bad_{number}:"))]
        assert of_it and all(said in line for line in of_it), (body, of_it)


def test_an_argument_that_nothing_would_resolve_is_refused(manifest_dag: Any) -> None:
    from inpaint_ops_airflow.operators import PlainOperator

    plan = manifest_dag.task_dict["plan"]
    for arguments in ({"op_args": [plan.output]}, {"op_kwargs": {"shards": [plan.output]}}):
        with pytest.raises(TypeError, match="pull another task's result"):
            PlainOperator(task_id="x", python_callable=lambda shards: None, **arguments)


HOSTILE = "{{ 7*191 }} {% raw %} ../\"'<script>\n?#&"


def test_a_trigger_passes_on_what_it_is_given_unrendered(manifest_dag: Any) -> None:
    """By the very code that renders a mapped operator before it runs."""
    from types import SimpleNamespace

    from airflow.sdk import dag
    from airflow.sdk.exceptions import DagRunTriggerException

    from inpaint_ops_airflow.operators import PlainTrigger

    @dag(schedule=None)
    def mapped() -> None:
        given = {"trigger_run_id": HOSTILE, "conf": {"manifest": HOSTILE, "run": HOSTILE, "more": [HOSTILE]}}
        PlainTrigger.partial(task_id="t", trigger_dag_id="x").expand_kwargs([given])

    made = mapped()
    run = SimpleNamespace(conf={})
    context: dict[str, Any] = {"ti": SimpleNamespace(map_index=0), "dag": made, "dag_run": run, "params": {}}
    made.task_dict["t"].render_template_fields(context)
    with pytest.raises(DagRunTriggerException) as raised:
        context["task"].execute(context)
    assert raised.value.conf == {"manifest": HOSTILE, "run": HOSTILE, "more": [HOSTILE]}
    assert raised.value.dag_run_id == HOSTILE
    assert context["run_label"] == HOSTILE


def test_links_are_paths_whatever_the_ids_hold(manifest_dag: Any) -> None:
    import re
    from types import SimpleNamespace

    key = SimpleNamespace(dag_id=HOSTILE, run_id=HOSTILE, task_id=HOSTILE, map_index=3)
    from inpaint_ops_airflow.links import TriggeredRunLink

    trigger = SimpleNamespace(trigger_dag_id=HOSTILE, trigger_run_id=HOSTILE)
    for link in (*manifest_dag.task_dict["inpaint"].operator_extra_links, TriggeredRunLink()):
        assert re.fullmatch(r"/[A-Za-z0-9/._~%-]+(\?to=report)?", link.get_link(trigger, ti_key=key))


def test_the_pages_places_hold_ids_and_nothing_else() -> None:
    import re

    from inpaint_ops_airflow.plugin import InpaintPlugin

    for view in InpaintPlugin.external_views:
        assert set(re.findall(r"\{[^}]*\}", view["href"])) <= {"{DAG_ID}", "{RUN_ID}", "{TASK_ID}", "{MAP_INDEX}"}


def test_the_form_repeats_the_facts_of_the_package(manifest_dag: Any) -> None:
    """The DAG's file is parsed often, so it imports nothing of the package: what it repeats is compared here."""
    import inpaint_manifest

    from inpaint_ops.config import Blend, Fill, Grain, Match, Scheduler, Settings, Sharpen, SideProduct
    from inpaint_ops.manifest import Quality
    from inpaint_ops.planning import JobOptions
    from inpaint_ops.tuning import Preset

    forms = {name: manifest_dag.params.get_param(name).schema for name in manifest_dag.params}
    assert forms["quality"]["enum"] == list(get_args(Quality))
    assert forms["scheduler"]["enum"] == [None, *get_args(Scheduler)]
    assert forms["pick"]["enum"] == [None, *get_args(JobOptions.model_fields["pick"].annotation)]
    kinds = (("blend", Blend), ("match", Match), ("grain", Grain), ("sharpen", Sharpen), ("fill", Fill))
    for name, choices in kinds:
        assert forms[name]["enum"] == [None, *get_args(choices)]
    assert forms["side_products"]["items"]["enum"] == list(get_args(SideProduct))
    assert forms["tuning"]["enum"] == [None, *get_args(Preset)]
    patterns = [name for name, form in forms.items() if "pattern" in form]
    assert not patterns, "Airflow's form says no more than Bad Request of one that is missed: the task refuses in words"
    bounds = JobOptions.model_json_schema()["properties"]
    for name, low, high in (
        ("steps", 1, 500),
        ("failure_threshold", 0, 1),
        ("shard_rows", 1, None),
        ("variants", 1, 16),
        ("guidance_scale", 0, 50),
    ):
        inner = next(one for one in bounds[name].get("anyOf", [bounds[name]]) if one.get("type") != "null")
        assert (forms[name].get("minimum"), forms[name].get("maximum")) == (low, high)
        assert (inner.get("minimum"), inner.get("maximum")) == (low, high)
    batch = Settings.model_json_schema()["properties"]["batch_size"]["anyOf"][0]
    assert (forms["batch_size"]["minimum"], forms["batch_size"]["maximum"]) == (batch["minimum"], batch["maximum"])
    source = Path(inpaint_manifest.__file__).read_text()
    defaults = {name: Settings.model_fields[name].default for name in ("retry_seconds", "tries", "shard_timeout")}
    for name, default in defaults.items():
        stated = re.search(rf'"INPAINT_{name.upper()}"\)? or "(\d+)"|"INPAINT_{name.upper()}", "(\d+)"', source)
        assert stated and float(stated[1] or stated[2]) == default, name
