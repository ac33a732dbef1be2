"""A model, or a VAE, in one safetensors file, as trainers and model sites publish them: what its header says. No torch.

The names of the tensors are those of Stability AI's own code (`model.diffusion_model.input_blocks…`), and there is no
configuration: which SDXL it is follows from the shapes (`recipes`). `single_file` makes a pipeline of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from inpaint_ops.config import DEFAULT_MODEL
from inpaint_ops.errors import ModelError
from inpaint_ops.model.own_models import MARKER, PICKLE_CURE, PICKLES
from inpaint_ops.model.recipes import RECIPES, Recipe

SUFFIX = ".safetensors"

UNET, VAE, CLIP_L, CLIP_G = (
    "model.diffusion_model.", "first_stage_model.", "conditioner.embedders.0.transformer.",
    "conditioner.embedders.1.model.",
)  # fmt: skip
"""What the tensors' names begin with, by the part that they belong to."""

_DTYPES = ("F16", "BF16", "F32", "F64")


class Tensor(NamedTuple):
    """What a header says of a tensor. `dtype` as safetensors names it: F16, BF16, F32."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file holds, by name, and what its writer noted."""

    path: Path
    tensors: dict[str, Tensor]
    notes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An SDXL model in one file.

    `recipe` has its layer sizes; `channels` the UNet takes: 9 (inpainting) or 4; `vocabulary` is how many tokens the
    text encoders know; `prediction` is what the UNet predicts, as diffusers' schedulers call it; `zero_snr` says that
    its noise schedule ends in pure noise.
    """

    path: Path
    recipe: Recipe
    channels: int
    vocabulary: int
    prediction: str
    zero_snr: bool
    dtype: str
    random: bool

    @property
    def vae_upcasts(self) -> bool:
        """Whether the VAE computes in 32 bits in a float16 pipeline: SDXL's own overflows in 16, our random ones do
        not, and a file says nothing of it.
        """
        return not self.random or bool(self.recipe.vae["force_upcast"])


def is_file_name(model: str) -> bool:
    """Whether `model` names a file of weights, of a kind that is read or one that is refused."""
    return Path(model).suffix.lower() in (SUFFIX, *PICKLES) and not Path(model).expanduser().is_dir()


def read_header(path: Path) -> Header:
    """Raises ModelError that names the file, what it seems to be, and the cure."""
    if path.suffix.lower() in PICKLES:
        raise ModelError(f"{path} holds pickled weights: {PICKLE_CURE}")
    if not path.is_file():
        raise ModelError(f"model file {path}: there is no such file")
    try:
        with safe_open(path, framework="numpy") as opened:
            tensors = {}
            for name in opened.keys():  # noqa: SIM118  # no mapping: it has no iterator
                about = opened.get_slice(name)
                tensors[name] = Tensor(tuple(about.get_shape()), about.get_dtype())
            return Header(path, tensors, opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        try:
            with path.open("rb") as raw:
                begin = raw.read(4)
        except OSError as unreadable:
            raise ModelError(
                f"{path} cannot be read: {unreadable.strerror}; let the user who paints read it"
            ) from error
        if begin[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04"):
            raise ModelError(f"{path} is a pickle under another name: {PICKLE_CURE}") from error
        raise ModelError(
            f"{path} is no whole safetensors file ({' '.join(str(error).split())[:200]}): it is damaged or cut short; "
            "fetch it again and compare its size and SHA-256 with the publisher's"
        ) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """What the file `path` says of itself, by its header alone. Raises ModelError for what is no SDXL model."""
    header = read_header(path)
    tensors = header.tensors
    first = f"{UNET}input_blocks.0.0.weight"
    if first not in tensors or not _has(tensors, CLIP_L) or not _has(tensors, CLIP_G) or not _has(tensors, VAE):
        raise ModelError(f"{path} {_what_it_is(header)}")
    if "edm_mean" in tensors or "edm_vpred.sigma_max" in tensors:
        raise ModelError(
            f"{path} has the noise schedule of EDM (Playground 2.5, CosXL), which is not painted with: "
            "use a model with SDXL's own"
        )
    channels = _shape(header, first)[1]
    check_channels(path, channels)
    check_numbers(header, (UNET, VAE, CLIP_L, CLIP_G))
    vocabulary = _shape(header, f"{CLIP_L}text_model.embeddings.token_embedding.weight")[0]
    return Checkpoint(
        path=path,
        recipe=_recipe_of(header, first),
        channels=channels,
        vocabulary=vocabulary,
        prediction="v_prediction" if _predicts_v(header) else "epsilon",
        zero_snr="ztsnr" in tensors,
        dtype=tensors[first].dtype,
        random=MARKER in header.notes,
    )


def check_numbers(
    header: Header, prefixes: tuple[str, ...] = ("",), *, ends: str = "", also: tuple[str, ...] = ()
) -> None:
    """Raise ModelError where a tensor whose name begins with one of `prefixes`, and ends with `ends`, holds other
    numbers than floating ones of 16 bits or more, or `also` these: quantised weights would be taken for the numbers
    themselves.
    """
    for name, tensor in header.tensors.items():
        if name.endswith("position_ids") or not name.startswith(prefixes) or not name.endswith(ends):
            continue
        if tensor.dtype not in (*_DTYPES, *also):
            raise ModelError(
                f"{header.path} holds numbers of the kind {tensor.dtype} ({name[:80]}): use the file with 16 or 32 bits"
            )


def check_channels(place: Path, channels: object) -> None:
    """Raise ModelError for a UNet that takes neither 9 channels (inpainting) nor 4 (plain SDXL)."""
    if channels not in (4, 9):
        raise ModelError(
            f"{place}: the UNet takes {channels} channels; an inpainting UNet takes 9 and a plain one 4: use an SDXL "
            f"inpainting model such as {DEFAULT_MODEL}"
        )


def vae_recipe(header: Header) -> tuple[Recipe, str]:
    """Whose VAE's shapes the file has, and what the names begin with. Raises ModelError for what is no VAE."""
    for prefix in (VAE, "vae.", ""):
        name = f"{prefix}encoder.conv_in.weight"
        if name in header.tensors:
            width, last = _shape(header, name)[0], _shape(header, f"{prefix}encoder.conv_out.weight")[1]
            check_numbers(header, (f"{prefix}encoder.", f"{prefix}decoder.", f"{prefix}quant", f"{prefix}post_quant"))
            for recipe in RECIPES.values():
                widths = recipe.vae["block_out_channels"]
                if (widths[0], widths[-1]) == (width, last):
                    return recipe, prefix
            raise ModelError(f"{header.path}: its VAE starts with {width} channels, SDXL's with 128: use an SDXL VAE")
    raise ModelError(f"{header.path} {_what_it_is(header, wanted='VAE')}")


def _recipe_of(header: Header, first: str) -> Recipe:
    """Whose layer sizes the file has, by the shapes at the parts' ends. Raises ModelError where nobody's."""
    found = {
        "unet": _shape(header, first)[0],
        "conditions": _shape(header, f"{UNET}label_emb.0.0.weight")[1],
        "clip_l": _shape(header, f"{CLIP_L}text_model.embeddings.token_embedding.weight")[1],
        "clip_g": _shape(header, f"{CLIP_G}token_embedding.weight")[1],
        "vae": _shape(header, f"{VAE}encoder.conv_in.weight")[0],
    }
    for recipe in RECIPES.values():
        if found == {
            "unet": recipe.unet["block_out_channels"][0],
            "conditions": recipe.unet["projection_class_embeddings_input_dim"],
            "clip_l": recipe.clip_l["hidden_size"],
            "clip_g": recipe.clip_g["hidden_size"],
            "vae": recipe.vae["block_out_channels"][0],
        }:
            return recipe
    sizes = ", ".join(f"{name} {value}" for name, value in found.items())
    raise ModelError(f"{header.path} has other layer sizes than SDXL ({sizes}): use a model that was made from SDXL")


def _shape(header: Header, name: str) -> tuple[int, ...]:
    """Of two axes or more. Raises ModelError where the file has no such tensor."""
    tensor = header.tensors.get(name)
    if tensor is None or len(tensor.shape) < 2:
        raise ModelError(f"{header.path} has no {name}: it is not a whole SDXL model; fetch it again, or use another")
    return tensor.shape


def _predicts_v(header: Header) -> bool:
    """By the marks that trainers leave: an empty tensor `v_pred`, or the note of Stability AI's ModelSpec."""
    return "v_pred" in header.tensors or header.notes.get("modelspec.prediction_type", "").lower() in ("v", "v_pred")


def _has(tensors: dict[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


_LAYOUTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...] = (
    # what it is; parts of names, all of which occur; parts of which none occurs; the cure
    ("a LoRA", ("lora_",), (), "give it with --lora beside a model"),
    ("a LoRA", (".lora",), (), "give it with --lora beside a model"),
    ("a ControlNet", ("control",), (UNET,), "it is no model by itself: use an SDXL model"),
    ("a Stable Diffusion 1 model", ("cond_stage_model.transformer.",), (), "use an SDXL model"),
    ("a Stable Diffusion 2 model", ("cond_stage_model.model.",), (), "use an SDXL model"),
    ("an SDXL refiner", ("conditioner.embedders.0.model.",), (), "use the base model, or an inpainting model"),
    ("a Stable Diffusion 3 model", ("joint_blocks.",), (), "use an SDXL model"),
    ("a Flux model", ("double_blocks.",), (), "use an SDXL model"),
    ("the UNet of a model without its text encoders", (UNET,), (CLIP_L,), "use the file that has them"),
    ("a model without its second text encoder", (UNET, CLIP_L), (CLIP_G,), "use the file that has both"),
    ("a model without its VAE", (UNET, CLIP_L, CLIP_G), (VAE,), "use the file that has one"),
    ("a part of a diffusers folder", ("down_blocks.", "mid_block."), (UNET,), "give the folder with model_index.json"),
    ("a text encoder", ("text_model.",), (UNET,), "give the model that it belongs to"),
    ("a VAE", ("encoder.", "decoder."), (UNET,), "give it with --vae beside a model"),
)  # fmt: skip


def _what_it_is(header: Header, wanted: str = "SDXL model") -> str:
    """The rest of a sentence that begins with the file's name."""
    names = list(header.tensors)
    for kind, parts, absent, cure in _LAYOUTS:
        if all(any(part in name for name in names) for part in parts) and not any(
            part in name for part in absent for name in names
        ):
            return f"seems to be {kind}, not {'a whole ' if wanted != 'VAE' else 'a '}{wanted}: {cure}"
    some = f"its first tensor is {names[0][:80]}" if names else "it holds no tensors"
    return f"has the layout of no {wanted} ({some}): use one of Stability AI's layout, or a diffusers folder"
