"""Try every server that is here, and print the table: a row per question, a column per server."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.stores.probes import PROBES, YES
from bench.stores.servers import BUCKET, Server, servers


def a_run(server: Server, scratch: Path) -> str:
    """A real run of two rows with the tiny model, of the command line."""
    import numpy as np
    from PIL import Image

    client, size = server.client(), (80, 96, 3)
    for name in ("a", "b"):
        for kind in ("photo", "mask"):
            pixels = np.random.default_rng(ord(name)).integers(0, 256, size, dtype=np.uint8)
            if kind == "mask":
                pixels[:] = 0
                pixels[20:60, 24:72] = 255
            Image.fromarray(pixels).save(scratch / "picture.png")
            client.put_object(Bucket=BUCKET, Key=f"job/{kind}-{name}.png", Body=(scratch / "picture.png").read_bytes())
    rows = (
        json.dumps({"id": name, "image": f"photo-{name}.png", "mask": f"mask-{name}.png", "prompt": "wool", "seed": 1})
        for name in ("a", "b")
    )
    client.put_object(Bucket=BUCKET, Key="job/job.jsonl", Body="\n".join(rows).encode())
    done = subprocess.run(
        [Path(sys.executable).parent / "inpaint-ops", "run", f"s3://{BUCKET}/job/job.jsonl", "--out", f"s3://{BUCKET}/out",
         "--model", "tiny-random", "--steps", "2"],
        env={**os.environ, **server.env, "HF_HOME": str(scratch / "hf"), "INPAINT_SCRATCH": str(scratch / "scratch")},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    verdict = next((line for line in done.stdout.splitlines() if ":" in line), done.stderr.strip()[-200:])
    return YES if done.returncode == 0 and "2 done" in verdict else f"no: exit {done.returncode}: {verdict}"


def column(server: Server, scratch: Path, *, with_run: bool) -> dict[str, str]:
    """What a server answers to each question; an error is an answer too."""
    answers = {}
    for name, probe in PROBES.items():
        try:
            answers[name] = probe(server)
        except Exception as error:  # whatever it is, it is what this server does
            answers[name] = f"no: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if with_run:
        answers["a run of two rows"] = a_run(server, scratch)
    return answers


def table(columns: dict[str, dict[str, str]]) -> Iterator[str]:
    """Markdown."""
    yield f"| | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name in next(iter(columns.values())):
        yield f"| {name} | {' | '.join(answers[name].replace('|', '/') for answers in columns.values())} |"


def main() -> int:
    """Exit code 1 if a server that was asked for did not start."""
    parser = argparse.ArgumentParser(prog="python -m bench.stores", description=__doc__)
    parser.add_argument(
        "--servers", type=Path, default=Path(".stores/bin"), help="the folder with the servers' programs"
    )
    parser.add_argument("--only", help="some of them: seaweedfs,ministack,rclone,moto_server")
    parser.add_argument(
        "--no-run", action="store_true", help="without the run of two rows, which takes half a minute each"
    )
    arguments = parser.parse_args()
    columns, failed = {}, False
    with tempfile.TemporaryDirectory(prefix="stores-") as folder:
        scratch = Path(folder)
        starts = servers(arguments.servers.absolute(), scratch)
        for name in arguments.only.split(",") if arguments.only else starts:
            print(f"… {name}", file=sys.stderr)
            try:
                with contextmanager(starts[name])() as server:
                    columns[server.name] = column(server, scratch, with_run=not arguments.no_run)
            except (RuntimeError, KeyError) as error:
                failed = True
                print(f"{name}: {error}", file=sys.stderr)
    for line in table(columns):
        print(line)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
