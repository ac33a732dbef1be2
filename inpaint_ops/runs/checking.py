"""What can be known of a job's models before a device is asked for.

Nothing here imports torch, and no object is read: a model is looked for in the hub's cache, then at the hub. Whether
the images and masks are there says `missing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from inpaint_ops.config import CLIP_MODEL_CURE, FILL_MODEL_CURE, LPIPS_MODEL_CURE
from inpaint_ops.errors import ModelError
from inpaint_ops.model.cache import hub_cache
from inpaint_ops.model.fill_models import locate as locate_fill_model
from inpaint_ops.model.own_models import OWN_MODELS, PICKLE_CURE, PICKLES
from inpaint_ops.model.score_models import locate_clip, locate_lpips
from inpaint_ops.planning import JobOptions
from inpaint_ops.records import LoraChoice
from inpaint_ops.storage import Storage

HUB_SECONDS = 10.0
"""How long the hub is waited for; a plan is no reason to wait longer."""


def check_model(
    model: str,
    revision: str | None = None,
    *,
    must_be_here: bool,
    vae: str | None = None,
    tokenizer: str | None = None,
) -> str | None:
    """Refuse a model that no worker could load; a line of what could not be found out, or None.

    A model in this machine's cache is fine, as is one of ours. A folder or a file (of the model, its VAE or its
    tokenizer) is looked for only where `must_be_here` says that this machine paints: others may have other folders. A
    file that holds a pickle is refused everywhere. A hub model that is not in the cache
    is looked up at the hub: one that the hub does not have is always refused, one that is only not fetched yet, or
    that cannot be looked up, where `must_be_here`. Raises ModelError.
    """
    if model in OWN_MODELS and vae is None and tokenizer is None:
        return None
    for name in filter(None, (model, vae)):
        if Path(name).suffix.lower() in PICKLES and not Path(name).is_dir():
            raise ModelError(f"{name} holds pickled weights: {PICKLE_CURE}")
    try:
        from inpaint_ops.model.sources import PINNED, is_local, resolve  # brings the hub's client: half a second
    except ModuleNotFoundError as error:
        if must_be_here:
            raise
        # Airflow's own image has no client of the hub, and no cache of models.
        return f"it is not known whether there is a model {model}: {error.name} is not installed where this is planned"
    try:
        resolve(model, revision, vae=vae, tokenizer=tokenizer)
        return None
    except ModelError as error:
        not_here = error
    is_of_the_hub = not is_local(model) and model not in OWN_MODELS
    if is_of_the_hub:
        try:
            resolve(model, revision)
            is_of_the_hub = False  # it is here: what is not is a folder or a file beside it
        except ModelError as error:
            not_here = error
    if not is_of_the_hub and not must_be_here:
        return f"{not_here}; the machines that paint may have it"
    if not is_of_the_hub or not_here.__cause__ is None:  # no hub id
        raise not_here
    why_unknown = _ask_hub(model, revision or PINNED.get(model))
    if must_be_here:
        raise ModelError(f"{not_here}{why_unknown and f' ({why_unknown})'}") from not_here
    if why_unknown:
        return f"it is not known whether there is a model {model}: it is not in this machine's cache, and {why_unknown}"
    return f"{model} is not in this machine's cache {hub_cache()}: where it paints, run `inpaint-ops models pull`"


def check_loras(storage: Storage, loras: Iterable[LoraChoice], *, must_be_here: bool) -> Iterator[str]:
    """Refuse LoRAs that no worker could load; lines of what could not be found out.

    One of the store must be there, below a prefix that may be read, wherever this is planned. A file is looked into
    where `must_be_here` says that this machine paints, or it is here. Raises ModelError, StorageError.
    """
    for one in loras:
        if Path(one.place).suffix.lower() in PICKLES:
            raise ModelError(f"the LoRA {one.place} holds pickled weights: {PICKLE_CURE}")
        if one.is_in_store:
            storage.stat(one.place)
            continue
        try:
            from inpaint_ops.model.loras import check_lora, locate  # needs safetensors, not in Airflow's own image

            check_lora(locate(one.place))
        except ModelError as error:
            if must_be_here:
                raise
            yield f"the LoRA {one.name}: {error}; the machines that paint may have it"
        except ModuleNotFoundError as error:
            if must_be_here:
                raise
            yield f"it is not known whether there is a LoRA {one.place}: {error.name} is not installed here"


def _ask_hub(model: str, revision: str | None) -> str:
    """Raise ModelError if the hub has no such model or revision; else "" or why it could not be asked."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so the hub was not asked"
    try:
        HfApi().model_info(model, revision=revision, timeout=HUB_SECONDS)
    except RevisionNotFoundError as error:
        raise ModelError(f"the hub has no revision {revision} of {model}: correct --revision") from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"the hub has no model {model}, or it needs a token (HF_TOKEN): correct --model") from error
    except Exception as error:  # of the hub's HTTP library, which depends on its version
        text = " ".join(str(error).split())[:120] or type(error).__name__
        return f"the hub {constants.ENDPOINT} cannot be asked: {text}"
    return ""


def check_fill_model(name: str | None, *, must_be_here: bool) -> Iterator[str]:
    """Refuse a network for fill `lama` that is not here, or no .onnx file; a line where other machines may have it.

    Its content is looked at by a worker alone. Raises ModelError.
    """
    if name is None:
        return
    if Path(name).suffix.lower() in PICKLES:
        raise ModelError(f"the fill model {name} holds pickled weights: {FILL_MODEL_CURE}")
    try:
        locate_fill_model(name)
    except ModelError as error:
        if must_be_here:
            raise
        yield f"{error}; the machines that paint may have it"


def check_score_models(job: JobOptions, *, must_be_here: bool) -> Iterator[str]:
    """Refuse a model for scores that is not here, or of another kind by its files' headers; a line where other machines
    may have it. Raises ModelError.
    """
    checks: tuple[tuple[str | None, Callable[[str], object], str], ...] = (
        (job.clip_model, locate_clip, CLIP_MODEL_CURE),
        (job.lpips_model, locate_lpips, LPIPS_MODEL_CURE),
    )
    for name, locate, cure in checks:
        if name is None:
            continue
        if Path(name).suffix.lower() in PICKLES:
            raise ModelError(f"{name} holds pickled weights: {cure}")
        try:
            locate(name)
        except ModelError as error:
            if must_be_here:
                raise
            yield f"{error}; the machines that paint may have it"
        except ModuleNotFoundError as error:
            if must_be_here:
                raise
            yield f"it is not known whether there is a model {name}: {error.name} is not installed here"


def check_models(storage: Storage, job: JobOptions, *, must_be_here: bool) -> list[str]:
    """Refuse a job whose model, VAE, tokenizer, LoRAs, fill model or models for scores no worker could load; lines of
    what could not be found out. Raises ModelError, StorageError.
    """
    about_model = check_model(
        job.model, job.model_revision, must_be_here=must_be_here, vae=job.vae, tokenizer=job.tokenizer
    )
    return [
        *([about_model] if about_model else []),
        *check_loras(storage, job.loras, must_be_here=must_be_here),
        *check_fill_model(job.fill_model, must_be_here=must_be_here),
        *check_score_models(job, must_be_here=must_be_here),
    ]
