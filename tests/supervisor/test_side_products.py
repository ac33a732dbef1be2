"""Files beside an image on their way to the store: as asked for, checked, and named by the row's record."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from inpaint_ops.config import SIDE_PRODUCTS, SideProduct
from inpaint_ops.errors import RunConflictError, ShardIncompleteError, StorageUnavailableError
from inpaint_ops.locations import Location
from inpaint_ops.runs import finish, prepare
from inpaint_ops.storage import ObjectInfo, Storage
from tests.support.bench import Bench
from tests.support.scripted_worker import png, webp

pytestmark = pytest.mark.usefixtures("no_gallery")


def stored(bench: Bench) -> set[str]:
    found = bench.workspace.storage.list(bench.layout.root.join("side_products/"))
    return {info.location.key.partition("/side_products/")[2] for info in found}


def test_a_record_names_the_files_that_were_asked_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["beside", "ok", "fail"], side_products=SIDE_PRODUCTS)
    assert bench.shard_run().run().done == 2
    records = bench.records()
    found = records[1].side_products
    assert [(one.kind, one.width, one.height) for one in found] == [
        ("patch", 2, 1), ("mask", 2, 1), ("preview", 200, 100),
    ]  # fmt: skip
    for one, data, ending in zip(found, (png(1), png(1), webp(200, 100)), ("png", "png", "webp"), strict=True):
        place = bench.layout.root.join(f"side_products/0.png.{one.kind}.{ending}")
        assert one.uri == place.uri and bench.workspace.storage.get(place) == data
        assert (one.sha256, one.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert records[1].side_product_problem == ""
    assert records[2].side_products == ()
    assert records[2].side_product_problem == "; ".join(f"{kind}: the worker made none" for kind in SIDE_PRODUCTS)
    summary = finish(bench.workspace, "run")
    [choice] = [one for one in summary.choices if one.choice == "side_products"]
    assert choice.count == 3 and choice.what.startswith("files beside images (patch 1, mask 1, preview 1)")
    assert any(line.startswith("1 image misses files that were asked for beside") for line in summary.warnings)


def test_what_was_not_asked_for_is_not_taken(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["beside"], side_products=("mask",))
    bench.shard_run().run()
    assert stored(bench) == {"0.png.mask.png"}
    bench = Bench(tmp_path / "other", ["beside"]) if (tmp_path / "other").mkdir() is None else bench
    bench.shard_run().run()
    assert stored(bench) == set()
    body = json.loads(bench.workspace.storage.get(bench.layout.record("00000", 1)))
    assert not [name for name in body if name.startswith("side_product")], "records are as they were without"
    assert b"side_products" not in bench.workspace.storage.get(bench.layout.shard("00000"))


@pytest.mark.parametrize(
    ("prompt", "kind", "problem"),
    [
        ("a mask that is webp", "mask", "it is webp of 2x1, which no mask of this image is"),
        ("a mask of another size", "mask", "it is png of 1x2"),
        ("a patch that is larger", "patch", "it is png of 3x1"),
        ("a preview that is larger", "preview", "it is webp of 1700x100"),
        ("a preview that is heavy", "preview", "4,194,304 would be the most"),
        ("no mask", "mask", "it is not there"),
        ("a mask that is a link", "mask", "it is a symbolic link"),
        ("no more room", "preview", "MemoryError: no room"),
    ],
)
def test_a_bad_file_is_a_note_in_the_record_and_the_row_is_done(
    tmp_path: Path, prompt: str, kind: SideProduct, problem: str
) -> None:
    bench = Bench(tmp_path, [f"beside: {prompt}", "ok"], side_products=SIDE_PRODUCTS)
    result = bench.shard_run().run()
    assert (result.done, result.failed, result.workers) == (2, 0, 1), "and the worker goes on"
    record = bench.records()[1]
    assert kind not in {one.kind for one in record.side_products} and len(record.side_products) == 2
    assert record.side_product_problem.startswith(f"{kind}: ") and problem in record.side_product_problem
    assert len(stored(bench)) == 2


def test_each_variant_has_its_own_under_its_images_name(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, ["beside"], side_products=("patch",), variants=2, names="{folder}/{stem}-{k}.{ext}",
        sources=["a/sofa.png"],
    )  # fmt: skip
    bench.shard_run().run()
    assert stored(bench) == {"a/sofa-0.png.patch.png", "a/sofa-1.png.patch.png"}
    record = bench.records()[1]
    assert [one.uri for one in record.side_products] == [one.uri for one in record.variants[0].side_products]
    assert all(len(one.side_products) == 1 for one in record.variants)
    [choice] = [one for one in finish(bench.workspace, "run").choices if one.choice == "side_products"]
    assert choice.count == 2


def test_an_earlier_attempts_image_gets_no_files_of_another_picture(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["beside"], side_products=SIDE_PRODUCTS)
    bench.workspace.storage.put(bench.layout.image("0", ".png"), b"the image of an attempt that died")
    assert bench.shard_run().run().done == 1
    record = bench.records()[1]
    assert (record.side_products, record.side_product_problem) == ((), "the image is an earlier attempt's")
    assert stored(bench) == set()


def test_where_the_store_refuses_one_the_row_is_not_done_and_the_next_attempt_brings_all(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["beside"], side_products=SIDE_PRODUCTS)
    real, refused = bench.workspace.storage, list[str]()

    class Refuses:
        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def put(self, place: Location, *args: object, **options: object) -> ObjectInfo:
            if place.key.endswith(".mask.png"):
                refused.append(place.key)
                raise StorageUnavailableError("the store is away")
            return real.put(place, *args, **options)  # type: ignore[arg-type]

    with pytest.raises(ShardIncompleteError, match="the store is away"):
        storage: Storage = Refuses()  # type: ignore[assignment]
        bench.shard_run(storage=storage).run()
    assert refused and bench.records() == {}
    assert bench.shard_run().run().done == 1
    assert [one.kind for one in bench.records()[1].side_products] == list(SIDE_PRODUCTS)
    assert len(stored(bench)) == 3


def test_two_runs_of_one_name_must_agree_on_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["ok"], side_products=("mask",))
    with pytest.raises(RunConflictError, match="side_products"):
        prepare(
            bench.workspace, str(tmp_path / "in" / "m.jsonl"), "run", bench.job.model_copy(update={"side_products": ()})
        )
