"""The form of the DAG `inpaint_manifest`: its fields, for Airflow's own form and for the page that submits.

The file of the DAG is parsed often, so this imports nothing of `inpaint_ops`: what it repeats, a test compares.
"""

from __future__ import annotations

from airflow.sdk import Param

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
    "guidance_scale": Param(
        default=None,
        type=["null", "number"],
        minimum=0,
        maximum=50,
        title="Guidance scale",
        description="How closely images follow the prompt, for rows that name none; at 1 and below guidance is off, "
        "which is half the work. Empty: 7.5, or as few steps ask.",
    ),
    "strength": Param(
        default=None,
        type=["null", "number"],
        minimum=0,
        maximum=1,
        title="Strength",
        description="How far the masked area is painted anew, above 0, for rows that name none; below 1 what lies "
        "under the mask shows through. Empty: 0.9999, or as few steps ask.",
    ),
    "guidance_cutoff": Param(
        default=None,
        type=["null", "number"],
        minimum=0,
        maximum=1,
        title="Guidance cutoff",
        description="The share of the steps after which guidance is off, such as 0.6, for rows that name none: the "
        "others are half the work, and the image is another. Empty: guidance to the end.",
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
    "format": Param(
        default=None,
        enum=[None, "png", "webp", "tiff", "jpeg", "avif", "jxl", "source"],
        values_display={"null": "as the settings say"},
        title="Format",
        description="What images of rows that name no format are written as. source: as their source. Empty: as the "
        "settings say (png).",
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
    "clip_model": Param(
        default=None,
        type=["null", "string"],
        title="CLIP model",
        description="Score each image against its prompt: the folder of a CLIP model on the GPU machines. Empty: as "
        "the settings say (none).",
    ),
    "lpips_model": Param(
        default=None,
        type=["null", "string"],
        title="LPIPS model",
        description="Measure each image's distance to its source: an LPIPS network, an .onnx file on the GPU machines. "
        "Empty: as the settings say (none).",
    ),
    "profile": Param(
        default=False,
        type="boolean",
        title="Profile",
        description="Have each worker leave a trace of its threads, operators and kernels for Perfetto, beside its "
        "report. Slows its first batches.",
    ),
    "side_products": Param(
        default=None,
        type=["null", "array"],
        items={"type": "string", "enum": ["patch", "mask", "preview"]},
        examples=["patch", "mask", "preview"],
        title="Side products",
        description="Files beside each image: the patch alone with alpha, the mask as it was used, a preview of before "
        "and after. Empty: as the settings say (none).",
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
        enum=[None, "first", "best", "clip"],
        values_display={"null": "the first"},
        title="Pick",
        description="Which variant is its row's image. best: that which fits its surroundings best, by measures. clip: "
        "that which shows its prompt best, by the CLIP model.",
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
    "project": Param(
        default=None,
        type=["null", "string"],
        title="Project",
        description="What the run belongs to, for the page of cost and trends. Letters, digits, spaces and ._- make a "
        "name of 60 characters at most.",
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
