"""The same by Ray Data: files are read by tasks, one actor holds the model, tasks write; errors are noted per row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import ray  # type: ignore[import-not-found]

from bench.peers.loop import Store, arguments, load, paint

GIVEN = arguments()
FOLDER, _, NAME = GIVEN.manifest.rpartition("/")
SIZE = tuple(map(int, GIVEN.size.split("x")))


def read(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its files."""
    store = Store(FOLDER + "/")
    try:
        return row | {"source": store.get(row["image"]), "where": store.get(row["mask"]), "error": ""}
    except Exception as error:
        return row | {"source": b"", "where": b"", "error": f"{type(error).__name__}: {error}"}


class Painter:
    """Holds the model."""

    def __init__(self) -> None:
        self.pipeline = load(GIVEN.model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Paint the rows of a batch, one after another."""
        out: dict[str, list[Any]] = {"id": [], "image": [], "error": []}
        for at in range(len(batch["id"])):
            row = {name: values[at] for name, values in batch.items()}
            image, error = b"", str(row["error"])
            if not error:
                try:
                    row["seed"] = int(row["seed"])
                    image = paint(self.pipeline, row, row["source"], row["where"], SIZE, GIVEN.steps)  # type: ignore[arg-type]
                except Exception as raised:
                    error = f"{type(raised).__name__}: {raised}"
            out["id"].append(row["id"])
            out["image"].append(image)
            out["error"].append(error)
        return out


def write(row: dict[str, Any]) -> dict[str, Any]:
    """Put the image; keep the error."""
    if not row["error"]:
        Store(GIVEN.out).put(f"{row['id']}.png", row["image"])
    return {"id": row["id"], "error": row["error"]}


def main() -> None:
    """Do the rows; what failed is in errors.jsonl."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    rows = [json.loads(line) for line in Store(FOLDER + "/").get(NAME).decode().splitlines()]
    data = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // 8))
    done = data.map(read).map_batches(Painter, batch_size=4, concurrency=1).map(write).take_all()
    errors = [one for one in done if one["error"]]
    Store(GIVEN.out).put("errors.jsonl", "".join(json.dumps(one) + "\n" for one in errors).encode())
    ray.shutdown()


if __name__ == "__main__":
    main()
