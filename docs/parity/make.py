"""Makes the table and the picture of docs/parity.md: ten photos through this program, and through diffusers' own call.

    .venv/bin/python -m docs.parity.make [PYTHON]

All paint with the demo's model, the same masks, seeds and steps. Diffusers is called as its documentation shows:
`load_image`, the pipeline with `padding_mask_crop`, `save`. This program is called by its command. PYTHON is an
interpreter that has IOPaint (1.6.0; it asks for versions of its own of nearly everything): without it, what the page
says of IOPaint is left out.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageDraw

from demo.photos import photo, working_rows
from inpaint_ops import images
from inpaint_ops.images.reading import to_8_bit
from inpaint_ops.model.own_models import demo_folder

FOLDER = Path(__file__).parent
PAGE = FOLDER.with_suffix(".md")
STEPS, PADDING, SEED = 2, 32, 7
LARGE = 10**8
OURS, THEIRS, OTHERS = "this program", "diffusers", "IOPaint"
COLUMNS = (
    "outside: pixels changed", "by at most", "seam contrast", "size", "upright", "alpha", "bits", "ICC profile",
    "copyright in EXIF",
)  # fmt: skip
COPYRIGHT = "Example Studio"


@dataclass(frozen=True, slots=True)
class Case:
    """One photo with its mask: their files, the source as it is read, and the mask's weights."""

    name: str
    image: bytes
    mask: bytes
    prompt: str

    @property
    def source(self) -> images.Source:
        """The photo, upright."""
        return images.decode_source(self.image, max_pixels=LARGE, metadata="keep")

    @property
    def weights(self) -> np.ndarray:
        """(H, W) uint8."""
        return images.decode_mask(self.mask, size=self.source.size, max_pixels=LARGE)


def cases() -> Iterator[Case]:
    """The demo's eight photos, and two with a profile and a copyright; licences: see demo/photos.py."""
    for row, image, mask in working_rows():
        yield Case(Path(row["image"]).name, image, mask, row["prompt"])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x8298] = COPYRIGHT
    for name, file, size, box in (
        ("gravel.jpg", "gravel.png", (501, 333), (180, 120, 300, 210)),
        ("retina.png", "retina.jpg", (640, 480), (250, 200, 330, 300)),
    ):
        body, drawn = io.BytesIO(), io.BytesIO()
        picture = photo(file).convert("RGB")
        picture.crop((0, 0, *size) if name == "gravel.jpg" else (350, 450, 990, 930)).save(
            body, "JPEG" if name.endswith("jpg") else "PNG", icc_profile=profile, exif=exif, quality=92
        )
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        mask.save(drawn, "PNG")
        yield Case(name, body.getvalue(), drawn.getvalue(), "plain ground")


def by_this_program(given: list[Case], folder: Path) -> dict[str, bytes]:
    """`inpaint-ops run` on a manifest of all of them: each one's image file."""
    rows = []
    for case in given:
        (folder / case.name).write_bytes(case.image)
        (folder / f"{case.name}.mask.png").write_bytes(case.mask)
        rows.append(
            {"id": case.name, "image": case.name, "mask": f"{case.name}.mask.png", "prompt": case.prompt,
             "seed": SEED, "crop": PADDING}
        )  # fmt: skip
    job = folder / "job.jsonl"
    job.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        sys.executable, "-m", "inpaint_ops.cli", "run", job, "--out", folder / "out", "--model", "demo",
        "--device", "cpu", "--steps", STEPS, "--strength", 1, "--guidance-scale", 1,
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return {case.name: (folder / "out/runs/job/images" / f"{case.name}.png").read_bytes() for case in given}


def by_diffusers(given: list[Case], folder: Path) -> dict[str, bytes]:
    """The pipeline's own call, one after another: each one's image file."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from diffusers import StableDiffusionXLInpaintPipeline
    from diffusers.utils import load_image

    pipe: Any = StableDiffusionXLInpaintPipeline.from_pretrained(
        str(demo_folder()), variant="fp16", torch_dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    made = {}
    for case in given:
        (folder / case.name).write_bytes(case.image)
        (folder / f"{case.name}.mask.png").write_bytes(case.mask)
        painted = pipe(
            prompt=case.prompt,
            image=load_image(str(folder / case.name)),
            mask_image=load_image(str(folder / f"{case.name}.mask.png")),
            padding_mask_crop=PADDING,
            num_inference_steps=STEPS,
            strength=1.0,
            guidance_scale=1.0,
            generator=torch.Generator("cpu").manual_seed(SEED),
        ).images[0]
        painted.save(folder / f"{case.name}.out.png")
        made[case.name] = (folder / f"{case.name}.out.png").read_bytes()
    return made


def by_iopaint(given: list[Case], folder: Path, python: str) -> dict[str, bytes]:
    """IOPaint's batch command: the image files of those that it reads."""
    for name in ("in", "mask"):
        (folder / name).mkdir()
    for case in given:
        (folder / "in" / case.name).write_bytes(case.image)
        (folder / "mask" / f"{Path(case.name).stem}.png").write_bytes(case.mask)
    wishes = {"prompt": "", "sd_steps": STEPS, "sd_seed": SEED, "sd_strength": 1.0, "sd_guidance_scale": 1.0}
    (folder / "config.json").write_text(json.dumps(wishes))
    script = FOLDER / "by_iopaint.py"
    subprocess.run([python, script, demo_folder(), folder], check=True, capture_output=True, text=True)
    made = {case.name: folder / "out" / f"{Path(case.name).stem}.png" for case in given}
    return {name: path.read_bytes() for name, path in made.items() if path.exists()}


def found(case: Case, data: bytes | None) -> dict[str, str]:
    """What became of a photo, by `COLUMNS`."""
    if data is None:
        return dict.fromkeys(COLUMNS, "") | {COLUMNS[0]: "not read"}
    source, result = case.source, images.decode_source(data, max_pixels=LARGE, metadata="keep")
    row = dict.fromkeys(COLUMNS, "") | {
        "size": f"{result.width}x{result.height}" if result.size != source.size else "kept",
        "alpha": _kept(_has_alpha(source), _has_alpha(result)),
        "bits": f"{8 * source.pixels.dtype.itemsize} → {8 * result.pixels.dtype.itemsize}",
        "ICC profile": _kept(bool(source.icc), source.icc == result.icc),
        "copyright in EXIF": _kept(COPYRIGHT.encode() in (source.metadata.exif or b""), COPYRIGHT.encode() in data),
    }
    if Image.open(io.BytesIO(case.image)).getexif().get(0x0112, 1) != 1:
        row["upright"] = "yes" if result.size == source.size else "no"
    if result.size == source.size:
        before, after = _colours(source.pixels), _colours(result.pixels)
        if before.dtype != after.dtype:
            before, after = to_8_bit(before), to_8_bit(after)
        differs = np.abs(before.astype(int) - after).max(axis=2)[case.weights == 0]
        row[COLUMNS[0]] = f"{np.count_nonzero(differs) / differs.size:.1%}" if differs.any() else "none"
        row[COLUMNS[1]] = str(int(differs.max()))
        row[COLUMNS[2]] = f"{images.measure(result.pixels, case.weights).seam_contrast or 0:.2f}"
    return row


def _kept(had: bool, has: bool) -> str:
    return ("kept" if has else "lost") if had else ""


def _has_alpha(source: images.Source) -> bool:
    return source.pixels.ndim == 3 and source.pixels.shape[2] in (2, 4)


def _colours(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3), alpha left out."""
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        gray = pixels if pixels.ndim == 2 else pixels[..., 0]
        return np.repeat(gray[..., None], 3, axis=2)
    return pixels[..., :3]


def table(given: list[Case], made: dict[str, dict[str, bytes]]) -> Iterator[str]:
    """A line for each photo and way."""
    yield f"| photo | by | {' | '.join(COLUMNS)} |"
    yield "|---|---|" + "---|" * len(COLUMNS)
    for case in given:
        for way, files in made.items():
            row = found(case, files.get(case.name))
            yield f"| {case.name} | {way} | " + " | ".join(row[name] for name in COLUMNS) + " |"


def picture(given: list[Case], made: dict[str, dict[str, bytes]]) -> Image.Image:
    """The surroundings of each mask: the source, the mask's outline on it, and what was made of it."""
    size, shown = 150, ["source", "mask", *made]
    out = Image.new("RGB", (2 * size * len(shown) + 8, 16 + size * ((len(given) + 1) // 2)), "white")
    for at, case in enumerate(given):
        left, top = (at % 2) * (size * len(shown) + 8), 16 + size * (at // 2)
        x, y, width, height = cv2.boundingRect(case.weights)
        side = min(2 * max(width, height), *case.source.size)
        x0 = min(max(0, x + width // 2 - side // 2), case.source.width - side)
        y0 = min(max(0, y + height // 2 - side // 2), case.source.height - side)
        outline = case.source.rgb.copy()
        edges = cv2.findContours(cv2.inRange(case.weights, 1, 255), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(outline, edges, -1, (255, 0, 0), max(1, side // 100))
        pictures = [case.source.rgb, outline]
        for files in made.values():
            data = files.get(case.name)
            pictures.append(images.decode_source(data, max_pixels=LARGE).rgb if data else np.full_like(outline, 255))
        for number, (name, pixels) in enumerate(zip(shown, pictures, strict=True)):
            if pixels.shape != outline.shape:  # turned, or of another size: the whole of it
                out.paste(Image.fromarray(pixels).resize((size, size)), (left + number * size, top))
                continue
            part = Image.fromarray(np.ascontiguousarray(pixels[y0 : y0 + side, x0 : x0 + side]))
            out.paste(part.resize((size, size), Image.Resampling.LANCZOS), (left + number * size, top))
            if at < 2:
                ImageDraw.Draw(out).text((left + number * size + 4, 2), name, fill="black")
    return out


def make(iopaint: str | None = None) -> tuple[list[Case], dict[str, dict[str, bytes]]]:
    """The photos, and each one's image file by each way; `iopaint` is an interpreter that has IOPaint."""
    given = list(cases())
    with tempfile.TemporaryDirectory() as folder:
        one, two, three = (Path(folder, name) for name in "abc")
        for path in (one, two, three):
            path.mkdir()
        made = {OURS: by_this_program(given, one), THEIRS: by_diffusers(given, two)}
        if iopaint is not None:
            made[OTHERS] = by_iopaint(given, three, iopaint)
        return given, made


def main() -> None:
    """Write the picture, and the table into the page between its two marks."""
    given, made = make(*sys.argv[1:2])
    lines = "\n".join(table(given, made))
    print(lines)
    picture(given, made).save(FOLDER / "parity.jpg", quality=88)
    if PAGE.exists():
        begin, end = "<!-- made by docs/parity/make.py -->\n", "<!-- until here -->\n"
        before, _, rest = PAGE.read_text().partition(begin)
        PAGE.write_text(before + begin + lines + "\n" + end + rest.partition(end)[2])


if __name__ == "__main__":
    main()
