"""IOPaint over a folder: the files are fetched, `iopaint run` fills the masked areas by OpenCV, the results are put.

No diffusion: its SDXL model comes from the hub alone. So its times are of another work; what it does with files is
comparable.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError


def main() -> None:
    """Do the rows; the log of `iopaint` is what tells of errors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--iopaint", required=True, help="the command `iopaint` of its own installation")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    where, out = urlsplit(given.manifest), urlsplit(given.out)
    folder, _, name = where.path.lstrip("/").rpartition("/")

    def get(key: str) -> bytes:
        return bytes(client.get_object(Bucket=where.netloc, Key=f"{folder}/{key}")["Body"].read())

    with tempfile.TemporaryDirectory(prefix="iopaint-") as work:
        images, masks, results = (Path(work, part) for part in ("images", "masks", "results"))
        for part in (images, masks, results):
            part.mkdir()
        for line in get(name).decode().splitlines():
            row = json.loads(line)
            for key, path in ((row["image"], images / f"{row['id']}.jpg"), (row["mask"], masks / f"{row['id']}.png")):
                try:
                    path.write_bytes(get(key))
                except ClientError:
                    continue
        options = ["--model=cv2", "--device=cpu", f"--image={images}", f"--mask={masks}", f"--output={results}"]
        code = subprocess.run([given.iopaint, "run", *options], check=False).returncode
        for path in sorted(results.glob("*.png")):
            client.put_object(Bucket=out.netloc, Key=out.path.lstrip("/") + path.name, Body=path.read_bytes())
    raise SystemExit(code)


if __name__ == "__main__":
    main()
