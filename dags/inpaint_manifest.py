"""One run = one manifest: plan -> inpaint (one mapped task per shard, in the pool `gpu`) -> report."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import (  # type: ignore[attr-defined]  # the stub of 3.3.2 lacks the names for deadlines
    Asset,
    AsyncCallback,
    DeadlineAlert,
    DeadlineReference,
    Param,
    dag,
    get_current_context,
)

from inpaint_ops_airflow.metrics import count_rejected, deadline_missed, emit
from inpaint_ops_airflow.operators import painting_task
from inpaint_ops_airflow.refusals import refusals_kept
from inpaint_ops_airflow.tasks import airflow_errors, die_with_parent
from inpaint_ops_airflow.workspace import open_workspace, run_name

RETRY_DELAY = timedelta(seconds=float(os.environ.get("INPAINT_RETRY_SECONDS", "20")))
"""Before the first retry of a task; doubled before each further one."""

TRIES = int(os.environ.get("INPAINT_TRIES") or "4")
"""Attempts of a task, the first included: Settings.tries, read here so that parsing this file stays light."""

SHARD_TIMEOUT = timedelta(seconds=float(os.environ.get("INPAINT_SHARD_TIMEOUT") or "21600"))
"""Settings.shard_timeout. The supervisor of a shard enforces it, and records which rows are left."""

LEEWAY = timedelta(minutes=10)
"""After SHARD_TIMEOUT and this, Airflow ends a painting task that its supervisor did not end."""

DEADLINE = timedelta(hours=float(os.environ.get("INPAINT_DEADLINE_HOURS", "12")))
"""Counted from when a run is queued: the triggerer reports a run that has not ended by then."""

# No field has a pattern: Airflow's form answers a value that misses it with "Bad Request" alone. The task `plan` checks
# instead, and its refusal, in our words, is what the pages show of the DAG run.
PARAMS = {
    "manifest": Param(
        default="",
        type="string",
        minLength=1,
        title="Manifest",
        description="URI of a .jsonl, .csv, .parquet or .xlsx manifest, or of a folder of Parquet files, for example "
        "s3://bucket/inbox/night.jsonl.",
    ),
    "run": Param(
        default=None,
        type=["null", "string"],
        title="Run name",
        description="Where the results land: runs/<name>/. Letters, digits and ._+- make a name. Empty: made from the "
        "manifest's name and this DAG run's id.",
    ),
    "retry": Param(
        default=None,
        type=["null", "string"],
        title="Retry",
        description="Only these rows of the run named above again: failed, rejected, unchanged, or ids, with commas "
        "between. The manifest is the run's own, or one with corrected rows of the same ids. The rows are painted with "
        "the run's own model, scheduler, quality and steps. Empty: a whole run.",
    ),
    "quality": Param(default="high", enum=["good", "high", "best"], title="Quality", description="20, 30 or 50 steps."),
    "steps": Param(
        default=None,
        type=["null", "integer"],
        minimum=1,
        maximum=500,
        title="Steps",
        description="Denoising steps for rows that set none; overrides the quality.",
    ),
    "batch_size": Param(
        default=None,
        type=["null", "integer"],
        minimum=1,
        maximum=64,
        title="Batch size",
        description="Rows painted together. Empty: as the settings say, or chosen for the card.",
    ),
    "tuning": Param(
        default=None,
        enum=[None, "auto", "notes", "low-memory", "fast"],
        values_display={"null": "as the settings say"},
        title="Tuning",
        description="The preset of optimisations. Empty: as the settings say (auto).",
    ),
    "tuning_overrides": Param(
        default=None,
        type=["null", "object"],
        title="Tuning, field by field",
        description='Fields over the preset, for example {"vae_tiling": true, "compile": "off"}; see docs/settings.md.',
    ),
    "use_xformers": Param(
        default=None,
        type=["null", "boolean"],
        title="Use xFormers",
        description="Force xFormers attention on or off. Empty: as USE_XFORMERS says, or chosen.",
    ),
    "scheduler": Param(
        default=None,
        enum=[
            None,
            "model",
            "euler",
            "euler_a",
            "dpmpp_2m",
            "dpmpp_2m_karras",
            "ddim",
            "heun",
            "unipc",
            "euler_trailing",
            "ddim_trailing",
            "lcm",
        ],
        values_display={"null": "as the settings say"},
        title="Scheduler",
        description="How the denoising steps are taken. Empty: as the settings say (the model's own, euler).",
    ),
    "few_step": Param(
        default=None,
        enum=[None, "lcm", "lightning", "hyper"],
        values_display={"null": "no"},
        title="Few steps",
        description="Scheduler, steps, guidance and strength as the LoRA or the model of few steps asks.",
    ),
    "prompt": Param(
        default=None,
        type=["null", "string"],
        title="Prompt",
        description="For rows that have none. {color} stands for the row's field of that name.",
    ),
    "negative_prompt": Param(
        default=None, type=["null", "string"], title="Negative prompt", description="For rows that have none."
    ),
    "prompt_2": Param(
        default=None,
        type=["null", "string"],
        title="Prompt of the second text encoder",
        description="For rows that have none. Empty: the prompt.",
    ),
    "negative_prompt_2": Param(
        default=None,
        type=["null", "string"],
        title="Negative prompt of the second text encoder",
        description="For rows that have none.",
    ),
    "prompt_syntax": Param(
        default=None,
        enum=[None, "plain", "weighted"],
        values_display={"null": "as the settings say"},
        title="Prompt syntax",
        description="plain: brackets are words. weighted: (words:1.3) and [words] weigh. Empty: as the settings say.",
    ),
    "blend": Param(
        default=None,
        enum=[None, "hard", "feather", "poisson", "auto"],
        values_display={"null": "as the settings say"},
        title="Blend",
        description="How patches meet the source. auto: by the measured seam. Empty: as the settings say (hard).",
    ),
    "match": Param(
        default=None,
        enum=[None, "none", "mean", "histogram"],
        values_display={"null": "as the settings say"},
        title="Colour match",
        description="Bring patches' colours nearer to a ring around the mask. Empty: as the settings say (none).",
    ),
    "grain": Param(
        default=None,
        enum=[None, "none", "match"],
        values_display={"null": "as the settings say"},
        title="Grain",
        description="match: bring patches' noise up to the ring's. Empty: as the settings say (none).",
    ),
    "sharpen": Param(
        default=None,
        enum=[None, "none", "match"],
        values_display={"null": "as the settings say"},
        title="Sharpness",
        description="match: sharpen patches to the ring's detail. Empty: as the settings say (none).",
    ),
    "names": Param(
        default=None,
        type=["null", "string"],
        title="Names of images",
        description="A template such as {folder}/{stem}.{ext}; also {id}, {row}, {k}. Empty: as the settings say "
        "({id}.{ext}).",
    ),
    "fill": Param(
        default=None,
        enum=[None, "original", "noise", "mean", "telea", "lama"],
        values_display={"null": "as the settings say"},
        title="Fill",
        description="What the masked area holds before it is encoded; matters at a strength below 1. Empty: as the "
        "settings say (original).",
    ),
    "fill_model": Param(
        default=None,
        type=["null", "string"],
        title="Fill model",
        description="For the fill lama: LaMa's network, an .onnx file on the GPU machines. Empty: as the settings say.",
    ),
    "profile": Param(
        default=False,
        type="boolean",
        title="Profile",
        description="Have each worker leave a trace of its threads, operators and kernels for Perfetto, beside its "
        "report. Slows its first batches.",
    ),
    "variants": Param(
        default=None,
        type=["null", "integer"],
        minimum=1,
        maximum=16,
        title="Variants",
        description="Images of each row that names no number, each with a seed of its own. Empty: 1.",
    ),
    "pick": Param(
        default=None,
        enum=[None, "first", "best"],
        values_display={"null": "the first"},
        title="Pick",
        description="Which variant is its row's image. best: that which fits its surroundings best, by measures.",
    ),
    "model": Param(
        default=None,
        type=["null", "string"],
        title="Model",
        description="A hub id, a folder or a .safetensors file on the GPU machines, demo, or tiny-random. "
        "Empty: as the settings say.",
    ),
    "vae": Param(
        default=None,
        type=["null", "string"],
        title="VAE",
        description="In place of the model's own: a diffusers folder or a .safetensors file on the GPU machines. "
        "Empty: as the settings say.",
    ),
    "loras": Param(
        default=None,
        type=["null", "array"],
        items={"type": "string", "minLength": 1},
        title="LoRAs",
        description="One per line: [NAME=]PATH_OR_URI[:WEIGHT], a path on the GPU machines or a URI of the store. "
        "Rows may choose of them by name. Empty: as the settings say.",
    ),
    "tokenizer": Param(
        default=None,
        type=["null", "string"],
        title="Tokenizer",
        description="For a model in one file: the folder of an SDXL model, or of its tokenizer, on the GPU machines. "
        "Empty: as the settings say, or found there.",
    ),
    "row_limit": Param(
        default=None, type=["null", "integer"], minimum=1, title="Row limit", description="Only the first rows."
    ),
    "sample": Param(
        default=None,
        type=["null", "integer"],
        minimum=1,
        title="Sample",
        description="Only so many rows, spread over those that can be painted: to look at before the whole.",
    ),
    "shard_rows": Param(
        default=None,
        type=["null", "integer"],
        minimum=1,
        title="Rows per shard",
        description="One task instance paints one shard. Empty: as the settings say; where they say nothing, enough "
        "that starting takes less than 5 % of a shard's time.",
    ),
    "failure_threshold": Param(
        default=None,
        type=["null", "number"],
        minimum=0,
        maximum=1,
        title="Failure threshold",
        description="The share of rows that may fail before the run is marked failed. Empty: as the settings say (0).",
    ),
}


RESULTS = Asset("inpaint_results")
"""Gets one event per run that passes its checks, with its summary; other DAGs can be scheduled on it."""


@dag(
    schedule=None,
    catchup=False,
    max_active_tasks=1024,  # the pool `gpu` is the limit, not Airflow's default of 16
    params=PARAMS,
    default_args={
        "retries": TRIES - 1,
        "retry_delay": RETRY_DELAY,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
    },
    deadline=DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, DEADLINE, AsyncCallback(deadline_missed)),
    tags=["inpaint"],
    doc_md=__doc__,
)
def inpaint_manifest() -> None:
    @painting_task
    def plan() -> list[str]:
        from inpaint_ops.config import misspelt_variables
        from inpaint_ops.errors import ConfigError
        from inpaint_ops.locations import check_whole
        from inpaint_ops.planning import job_options
        from inpaint_ops.runs import prepare, prepare_retry

        context = get_current_context()
        not_of_the_job = ("manifest", "run", "retry")
        chosen = {name: value for name, value in context["params"].items() if name not in not_of_the_job}
        for line in misspelt_variables(os.environ):
            print(f"note: {line}")
        with airflow_errors(), refusals_kept(context):
            workspace = open_workspace()
            check_whole(context["params"]["manifest"])
            job = job_options(workspace.settings, **chosen)
            name = run_name(context["params"], context["run_id"])
            if (retry := context["params"].get("retry")) is not None:
                if not context["params"]["run"]:
                    raise ConfigError("`retry` does rows of a run again: name it in `run`, as the pages show it")
                named = {field for field, value in chosen.items() if value is not None} - {"quality"}
                if "batch_size" in named:
                    named = named - {"batch_size"} | {"tuning_overrides"}
                manifest, request = context["params"]["manifest"], context["run_id"]
                again = prepare_retry(
                    workspace, manifest, name, retry, job, chosen=named, request=request, find_model="anywhere"
                )
                for note in again.notes:
                    print(f"note: {note}")
                if again.retry is None:
                    return []
                print(f"retry {again.retry.number}: {again.retry.rows} rows, with quality {again.retry.job.quality}")
                return [shard.name for shard in again.retry.shards]
            is_new = workspace.plan(name) is None
            made = prepare(workspace, context["params"]["manifest"], name, job, find_model="anywhere")
            if is_new:
                count_rejected(made.rejected)
        print(f"{made.rows} rows, {made.rejected} rejected, {len(made.shards)} shards")
        if made.shard_basis:  # a run that an older version planned has none
            print(made.shard_basis)
        for note in made.warnings:
            print(f"note: {note}")
        if made.forecast is not None:
            print(f"forecast: {made.forecast.in_words()}")
        return [shard.name for shard in made.shards]

    @painting_task(
        pool="gpu",
        queue="gpu",
        execution_timeout=SHARD_TIMEOUT + LEEWAY,
        map_index_template="{{ shard_label }}",
    )
    def inpaint(shard: str) -> dict[str, Any]:
        from dataclasses import asdict

        from inpaint_ops.metrics import measured_shard
        from inpaint_ops.runs import paint

        die_with_parent()
        context = get_current_context()
        context["shard_label"] = f"shard {shard}"  # type: ignore[typeddict-unknown-key]  # for map_index_template
        instance = context["ti"]
        with airflow_errors():
            workspace, name = open_workspace(), run_name(context["params"], context["run_id"])
            last = instance.try_number > instance.max_tries
            with measured_shard(workspace, name, shard, emit):
                result = paint(workspace, name, shard, final_attempt=last)
        return asdict(result)

    @painting_task(trigger_rule="all_done", outlets=[RESULTS])
    def report() -> dict[str, Any]:
        from inpaint_ops.errors import ConfigError
        from inpaint_ops.runs import check_good, finish, summary_lines

        context = get_current_context()
        name = run_name(context["params"], context["run_id"])
        with airflow_errors():
            if context["ti"].xcom_pull(task_ids="plan") is None:
                # The plan was refused: the run of this name belongs to another DAG run, and may be under way.
                raise ConfigError("nothing was planned here, so there is nothing to report: see the task `plan`")
            workspace = open_workspace()
            summary = finish(workspace, name)
            print("\n".join(summary_lines(workspace, summary)))
            result = {"run": name, "verdict": summary.verdict, **summary.counts.model_dump()}
            check_good(summary)
        context["outlet_events"][RESULTS].extra = result | {"images_per_second": summary.images_per_second}
        return result

    shards = plan()
    [shards, inpaint.expand(shard=shards)] >> report()


inpaint_manifest()
