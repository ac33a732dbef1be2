"""A careful loop over boto3 and diffusers: each row by itself, its error noted, the patch laid over the source.

What somebody writes who knows both libraries and has an afternoon. It resumes by asking for each output.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
import torch
from botocore.exceptions import ClientError
from diffusers import StableDiffusionXLInpaintPipeline
from PIL import Image, ImageOps


def arguments() -> argparse.Namespace:
    """What each peer is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--size", required=True, help="width and height that the model paints, for example 1024x768")
    return parser.parse_args()


class Store:
    """A prefix of a bucket."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self.client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
        self.bucket, self.prefix = parts.netloc, parts.path.lstrip("/")

    def get(self, key: str) -> bytes:
        """The object's bytes."""
        return bytes(self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read())

    def put(self, key: str, data: bytes) -> None:
        """Write the object."""
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data)

    def has(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        except ClientError:
            return False
        return True


def load(model: str) -> Any:
    """The pipeline, as its documentation says for a machine without a card."""
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def paint(pipeline: Any, row: dict[str, Any], image: bytes, mask: bytes, size: tuple[int, int], steps: int) -> bytes:
    """The row's image as PNG: painted at `size`, enlarged, and laid over the source where the mask is."""
    source = ImageOps.exif_transpose(Image.open(io.BytesIO(image))).convert("RGB")
    where = Image.open(io.BytesIO(mask)).convert("L")
    painted = pipeline(
        prompt=row["prompt"],
        image=source.resize(size, Image.Resampling.LANCZOS),
        mask_image=where.resize(size, Image.Resampling.LANCZOS),
        width=size[0],
        height=size[1],
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(row["seed"]),
    ).images[0]
    full = np.asarray(painted.resize(source.size, Image.Resampling.LANCZOS))
    inside = np.asarray(where)[..., None] > 127
    sink = io.BytesIO()
    Image.fromarray(np.where(inside, full, np.asarray(source))).save(sink, "PNG")
    return sink.getvalue()


def main() -> None:
    """Do the rows; what failed is in errors.jsonl."""
    given = arguments()
    width, height = map(int, given.size.split("x"))
    folder, _, name = given.manifest.rpartition("/")
    source, out, errors = Store(folder + "/"), Store(given.out), []
    pipeline = load(given.model)
    for line in source.get(name).decode().splitlines():
        row = json.loads(line)
        if out.has(f"{row['id']}.png"):
            continue
        try:
            files = source.get(row["image"]), source.get(row["mask"])
            out.put(f"{row['id']}.png", paint(pipeline, row, *files, (width, height), given.steps))
        except Exception as error:
            errors.append({"id": row["id"], "error": f"{type(error).__name__}: {error}"})
    out.put("errors.jsonl", "".join(json.dumps(one) + "\n" for one in errors).encode())


if __name__ == "__main__":
    main()
