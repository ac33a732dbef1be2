"""Weights to a pipeline on the device, with a Tuning applied, and the ledger of what took effect.

Needs no network. Reads no pickles and runs no code that comes with a model.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLInpaintPipeline
from diffusers.pipelines import pipeline_utils
from safetensors import SafetensorError

from inpaint_ops.config import Scheduler
from inpaint_ops.errors import DeviceOutOfMemoryError, ModelError
from inpaint_ops.model import attention, compiled, ledger, random_weights, schedulers, single_file, tuned
from inpaint_ops.model.progress import without_progress_bars
from inpaint_ops.model.pulling import seconds_to_fetch
from inpaint_ops.model.recipes import recipe
from inpaint_ops.model.scorers import Scorers
from inpaint_ops.model.scorers import load as load_scorers
from inpaint_ops.model.sources import FoundModel
from inpaint_ops.model.torch_errors import is_device_lost, is_out_of_memory
from inpaint_ops.model.tuned import in_short, relieved
from inpaint_ops.model.vaes import VaeWeights
from inpaint_ops.model.verifying import Verified, digest, tensor_names
from inpaint_ops.records import DeviceInfo, LedgerEntry, LoadTimes, LoraIdentity, ModelIdentity
from inpaint_ops.tuning import Choice, Tuning, leaner

if TYPE_CHECKING:
    from inpaint_ops.images import Lama
    from inpaint_ops.model.adapters import Adapters, Wanted
    from inpaint_ops.model.loras import LoraWeights

_PIECE, _BLOCK, _READERS = 256 * 2**20, 8 * 2**20, 4
"""Bytes that one thread reads in a go, bytes per call, threads."""

_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError,
)  # fmt: skip
"""What diffusers raises for files that do not fit."""

OnPhase = Callable[[str, str], None]
"""Called when a part of the loading begins, with its name (load, tune) and a text for people."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A pipeline that is ready to paint.

    `native_size` is the side in pixels that the UNet was trained for; `why_not` and `choice` are what `inspect` needs
    to look again later; `seconds` is how long the parts of loading took (resolve, disk, device,
    tune).
    """

    pipe: Any
    identity: ModelIdentity
    native_size: int
    tuning: Tuning
    seconds: dict[str, float]
    device: torch.device
    choice: Choice | None = None
    why_not: dict[str, str] = field(default_factory=dict)
    scheduler: Scheduler = "model"
    download_seconds: float | None = None
    adapters: Adapters | None = None
    lama: Lama | None = None
    scorers: Scorers = field(default_factory=Scorers)

    @property
    def load_times(self) -> LoadTimes:
        """The same seconds, and those that fetching the model took when that was done, for the report."""
        return LoadTimes(download=self.download_seconds, **self.seconds)

    @property
    def ledger(self) -> tuple[LedgerEntry, ...]:
        """The ledger as of now, at the native size, before anything is painted."""
        return self.inspect((self.native_size, self.native_size))

    @property
    def is_compiled(self) -> bool:
        """Whether modules of the pipeline really are wrapped for compilation."""
        return compiled.is_compiled(self.pipe)

    def use_loras(self, wanted: Wanted) -> Wanted:
        """Have the pipeline paint with these LoRAs; those of them that change the text encoders."""
        return () if self.adapters is None else self.adapters.use(wanted)

    def kernels(self) -> AbstractContextManager[None]:
        """A block within which PyTorch prefers the attention kernel of the tuning."""
        return attention.preferring(self.tuning.attention)

    def compile_seconds(self) -> float:
        """Seconds that this process has spent compiling so far."""
        return compiled.seconds()

    def uncompile(self, error: Exception) -> None:
        """Go on without what was compiled, since it failed with `error`; the ledger will say so."""
        compiled.undo(self.pipe)
        self.why_not["compile"] = f"compiling failed: {in_short(error)}"

    def relieve(self) -> AbstractContextManager[None] | None:
        """What `low-memory` switches on, for the length of a block; None where all of it is on already.

        Where the weights do not fit the device again, the end of the block raises torch.OutOfMemoryError, they stay
        offloaded, and the ledger says so.
        """
        lean = leaner(self.tuning, self.native_size)
        return None if lean is None else self._relieved(lean)

    @contextmanager
    def _relieved(self, lean: Tuning) -> Iterator[None]:
        try:
            with relieved(self.pipe, self.tuning, lean, self.device):
                yield
        except torch.OutOfMemoryError as error:
            self.why_not["offload"] = in_short(error)
            raise

    def inspect(
        self,
        working_size: tuple[int, int],
        *,
        batch_size: int | None = None,
        batch_limit: int | None = None,
        prompts_done: bool = False,
    ) -> tuple[LedgerEntry, ...]:
        """The ledger as of now, at `working_size` (width, height in pixels); see `ledger.inspect`."""
        entries = ledger.inspect(
            self.pipe, self.tuning, working_size, choice=self.choice, why_not=self.why_not,
            batch_size=batch_size, batch_limit=batch_limit, prompts_done=prompts_done,
        )  # fmt: skip
        loras = () if self.adapters is None else (self.adapters.inspect(),)
        parts = ledger.inspect_parts(self.pipe, self.identity, self.lama)
        scheduler = schedulers.inspect(self.pipe, self.scheduler)
        return (*entries, scheduler, *parts, *loras, *self.scorers.entries())


def load(
    found: FoundModel,
    device: DeviceInfo,
    tuning: Tuning | Choice,
    on_phase: OnPhase | None = None,
    *,
    scheduler: Scheduler = "model",
    use_xformers: bool | None = None,
    fuse_loras: Mapping[str, float] | None = None,
) -> LoadedModel:
    """Load a model that was found for the tuning's dtype onto `device` and apply `tuning` (a Choice adds its reasons to
    the ledger).

    `use_xformers` is for a Tuning that no planner has made. `fuse_loras` has the weights of the LoRAs that every row is
    painted with, which are then merged; None: batches switch them. Raises ModelError when the files cannot be loaded,
    DeviceOutOfMemoryError when the weights do not fit.
    """
    say = on_phase or (lambda _name, _detail: None)
    choice = tuning if isinstance(tuning, Choice) else None
    plan = tuning.tuning if isinstance(tuning, Choice) else tuning
    seconds = {"resolve": found.seconds}
    source, weights = found.source, found.weights
    place = torch_device(device)

    say("load", f"{source.name} in {plan.dtype} to {place}")
    clock = time.perf_counter()
    download = None if source.folder is None else seconds_to_fetch(source.folder)
    # Weights that will be offloaded start in host memory: their hooks bring them over.
    target = torch.device("cpu") if plan.offload != "none" else place
    try:
        if weights is not None:
            read_ahead([weights.folder / name for name in weights.files])
        if found.vae is not None:
            read_ahead([found.vae.file])
        seconds["disk"] = -clock + (clock := time.perf_counter())
        dtype = getattr(torch, plan.dtype)
        vae = None if found.vae is None else _vae(found.vae, dtype, target)
        if weights is None:
            pipe: Any = random_weights.instantiate(source.name, target, dtype)
            weights_digest, native = _instantiated_digest(pipe), recipe(source.name).native_size
            pipe.vae = vae or pipe.vae
        elif weights.checkpoint is not None and source.tokenizers is not None:
            pipe = single_file.pipeline(weights.checkpoint, source.tokenizers, dtype, target, vae)
            weights_digest, native = weights.digest, weights.native_size
        else:
            pipe = _from_folder(weights.folder, plan.dtype, weights.variant, target, vae)
            weights_digest, native = weights.digest, weights.native_size
            _check_text_encoders(pipe, weights)
        pipe.set_progress_bar_config(disable=True)
        schedulers.apply(pipe, scheduler)
        seconds["device"] = -clock + (clock := time.perf_counter())

        adapters = None
        if found.loras:
            say("loras", ", ".join(lora.name for lora in found.loras))
            adapters = _adapters(pipe, found.loras)
            if fuse_loras is not None:
                adapters.fuse(tuple(sorted((name, weight) for name, weight in fuse_loras.items() if weight)))
            seconds["loras"] = -clock + (clock := time.perf_counter())

        say("tune", ", ".join(f"{name}={value}" for name, value in plan.model_dump().items()))
        why_not = tuned.apply(
            pipe, plan, device, use_xformers, switches_loras=adapters is not None and adapters.fused is None
        )
        seconds["tune"] = -clock + (clock := time.perf_counter())
        scorers = load_scorers(found.scorers, place, dtype)
        seconds["scores"] = time.perf_counter() - clock
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceOutOfMemoryError(
            f"{source.name} in {plan.dtype} does not fit {device.name}: {' '.join(str(error).split())[:200]}; "
            "try the tuning low-memory"
        ) from error
    identity = ModelIdentity(
        name=source.name,
        revision=source.revision,
        dtype=plan.dtype,
        random_weights=source.random,
        demo_model=source.demo,
        digest=weights_digest,
        loras=tuple(LoraIdentity(name=one.name, weight=one.weight, digest=one.digest) for one in found.loras),
        vae=None if found.vae is None else str(found.vae.place),
        vae_digest="" if found.vae is None else found.vae.digest,
        fill_model=None if found.fill_model is None else str(found.fill_model.path),
        fill_model_digest="" if found.fill_model is None else found.fill_model.digest,
    )
    lama = None if found.fill_model is None else found.fill_model.network
    return LoadedModel(
        pipe, identity, native, plan, seconds, place, choice, why_not, scheduler, download, adapters, lama, scorers
    )


def read_ahead(files: Sequence[Path]) -> None:
    """Read `files` once through, several at a time, so that they lie in the page cache when they are mapped.

    A mapped file is otherwise read page by page as it is copied: slower from a cold disk, and its seconds could not be
    separated from the copy's.
    """
    pieces = [(path, start) for path in files for start in range(0, path.stat().st_size, _PIECE)]

    def read(piece: tuple[Path, int]) -> None:
        path, start = piece
        buffer = memoryview(bytearray(min(_BLOCK, _PIECE)))
        with path.open("rb", buffering=0) as opened:
            opened.seek(start)
            left = _PIECE
            while left > 0 and (got := opened.readinto(buffer[: min(left, _BLOCK)])):
                left -= got

    with ThreadPoolExecutor(_READERS, "read-ahead") as pool:
        for _ in pool.map(read, pieces):
            pass


def limit_threads(most: int) -> None:
    """Have torch use no more threads than `most`. It counts the processors that it may run on, whatever a quota grants:
    64 threads that share two take turns in waiting for each other.
    """
    if most < torch.get_num_threads():
        torch.set_num_threads(most)


def torch_device(device: DeviceInfo) -> torch.device:
    """The device that a worker paints on: the first GPU that its environment lets it see, or the processor."""
    return torch.device("cuda:0" if device.kind == "cuda" else "cpu")


def _adapters(pipe: Any, loras: Sequence[LoraWeights]) -> Adapters:
    """The LoRAs in `pipe`, switched off. Raises ModelError for one that does not fit, and where peft is missing."""
    try:
        from inpaint_ops.model.adapters import Adapters  # peft, which a model without LoRAs does not need
    except ModuleNotFoundError as error:
        raise ModelError(f"LoRAs need {error.name}: pip install 'inpaint-ops[model]'") from error
    return Adapters(pipe, loras)


def _vae(found: VaeWeights, dtype: torch.dtype, target: torch.device) -> AutoencoderKL:
    """The VAE that takes the place of the model's own. Raises ModelError."""
    if found.place.is_file():
        return single_file.autoencoder(found.place, dtype, target)
    try:
        with without_progress_bars():
            vae: AutoencoderKL = AutoencoderKL.from_pretrained(
                str(found.place), dtype=dtype, use_safetensors=True, local_files_only=True,
                variant="fp16" if ".fp16." in found.file.name else None,
            )  # fmt: skip
            vae.to(target)
    except _UNREADABLE as error:
        if is_out_of_memory(error) or is_device_lost(error):
            raise
        text = " ".join(str(error).split())[:300]
        raise ModelError(f"{found.place} cannot be loaded ({type(error).__name__}: {text}); fetch it again") from error
    return vae


def _from_folder(
    folder: Path, dtype: str, variant: str | None, target: torch.device, vae: AutoencoderKL | None = None
) -> StableDiffusionXLInpaintPipeline:
    """Read the folder's safetensors straight to `target`, with `vae` in place of its own. Raises ModelError that says
    what did not fit.
    """
    parts = {} if vae is None else {"vae": vae}
    _let_diffusers_load_to(target)
    try:
        with without_progress_bars(), warnings.catch_warnings():
            # Parts that have no fp16 file of their own fall back to the plain one, which is what we want.
            warnings.filterwarnings("ignore", message=".*variant.*", category=FutureWarning)
            pipe: StableDiffusionXLInpaintPipeline = StableDiffusionXLInpaintPipeline.from_pretrained(
                str(folder),
                dtype=getattr(torch, dtype),
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                device_map=target.type,
                **parts,
            )
    except _UNREADABLE as error:
        if is_out_of_memory(error) or is_device_lost(error):
            raise
        text = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{folder} cannot be loaded ({type(error).__name__}: {text}); verify or fetch it again"
        ) from error
    return pipe


def _let_diffusers_load_to(target: torch.device) -> None:
    """Diffusers settles while it is imported which devices it loads to, and a worker imports it while it sees no card
    (`worker/imports.py`): `from_pretrained` would refuse the card that it has leased since.
    """
    if target.type not in pipeline_utils.SUPPORTED_DEVICE_MAP:
        pipeline_utils.SUPPORTED_DEVICE_MAP.append(target.type)


def _check_text_encoders(pipe: Any, verified: Verified) -> None:
    """Refuse weights that the file does not have: transformers initialises them at random and only prints a warning.

    Files written before transformers 5 have the prefix `text_model.` on each name.
    """
    for part in ("text_encoder", "text_encoder_2"):
        files = [verified.folder / name for name in verified.files if name.startswith(f"{part}/")]
        there = {name.removeprefix("text_model.") for path in files for name in tensor_names(path)}
        wanted = {name.removeprefix("text_model.") for name, _ in getattr(pipe, part).named_parameters()}
        if missing := sorted(wanted - there):
            raise ModelError(
                f"{files[0]} has no {missing[0]} and {len(missing) - 1} more: it is not whole; fetch the model again"
            )


def _instantiated_digest(pipe: Any) -> str:
    """As for files: over the names and sizes of the parameters."""
    sizes = {
        f"{part}/{name}": value.numel() * value.element_size()
        for part in ("unet", "vae", "text_encoder", "text_encoder_2")
        for name, value in getattr(pipe, part).named_parameters()
    }
    return digest(sizes)
