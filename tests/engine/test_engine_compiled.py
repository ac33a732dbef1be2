"""A compiled model: few shapes of batches, and painting goes on where the compiler fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from inpaint_ops.device import describe
from inpaint_ops.engine import Engine, PaintItem
from inpaint_ops.model import tuned
from inpaint_ops.model.compiled import figures, undo
from inpaint_ops.model.loading import LoadedModel
from inpaint_ops.records import ModelIdentity
from inpaint_ops.tuning import Tuning
from tests.support.engine_parts import KEY, LEVELS, Remembering, SmallCard, difference, forget_graphs, image, item


@pytest.fixture
def compiled(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The pipeline with its repeated blocks compiled by dynamo, without the backend's minutes of C++."""
    monkeypatch.setattr(tuned, "BACKEND", "eager")
    forget_graphs()
    assert tuned.apply(pipe, Tuning(attention="default", compile="regional"), describe("cpu")) == {}
    yield
    undo(pipe)
    forget_graphs()


def test_a_compiled_model_gets_few_shapes_of_batches(make: Callable[..., Engine], pipe: Any, compiled: None) -> None:
    """Of each working size, 1, 2 and 4 rows compile once; 3 are filled up to 4."""
    wide = KEY._replace(width=96)
    alone = {row: image(next(iter(make().paint([item(row)])))) for row in (1, 2, 3)}
    forget_graphs()
    engine = make(batch_size=4, is_compiled=True)
    before = figures()["graphs"]

    def paint(*rows: PaintItem) -> float:
        results = list(engine.paint(rows))
        assert [result.row for result in results] == [row.row for row in rows]
        for result in results:
            assert result.batch is not None
            assert result.batch.size == len(rows), "the record has the rows, not what filled the batch up"
            if result.row in alone:
                assert difference(image(result), alone[result.row]) <= LEVELS
        return figures()["graphs"] - before

    seen = [paint(*(item(row) for row in range(1, size + 1))) for size in (4, 3, 2, 1)]
    seen.append(paint(*(item(row, key=wide) for row in range(11, 15))))
    assert 0 < seen[0] == seen[1] < seen[2] < seen[3] < seen[4]
    for size in (1, 2, 3, 4, 1):
        assert paint(*(item(row) for row in range(1, size + 1))) == seen[-1]
    assert paint(*(item(row, key=wide) for row in range(11, 14))) == seen[-1]
    assert engine.measurements.painted == (4 + 3 + 2 + 1 + 4) + (1 + 2 + 3 + 4 + 1) + 3


def test_a_cutoff_of_guidance_costs_one_more_graph_for_each_shape_and_none_per_step(
    make: Callable[..., Engine], compiled: None
) -> None:
    """Halved in its midst, a batch of two has two shapes: that with guidance, and that of two rows without any."""
    cut, off = KEY._replace(steps=8, guidance_cutoff=0.5), KEY._replace(guidance_scale=1.0)
    engine = make(batch_size=2, is_compiled=True)

    def graphs(rows: int, key: Any) -> float:
        before = figures()["graphs"]
        for result in engine.paint([item(row, key=key) for row in range(rows)]):
            image(result)
        return figures()["graphs"] - before

    whole = graphs(2, KEY)
    assert whole > 0
    assert graphs(2, cut) == whole, "as many again: those of the halved batch"
    assert [graphs(2, cut), graphs(2, KEY), graphs(2, off), graphs(1, KEY)] == [0, 0, 0, 0], "shapes that are there"
    assert graphs(1, cut) == whole


def test_without_a_fixed_size_the_last_batch_would_recompile(make: Callable[..., Engine], compiled: None) -> None:
    """What the test above rests on: three rows are another shape than four."""
    engine = make(batch_size=4)
    list(engine.paint([item(row) for row in range(4)]))
    before = figures()["graphs"]
    list(engine.paint([item(row) for row in range(3)]))
    assert figures()["graphs"] > before


def test_out_of_memory_counts_what_fills_the_batch_up(make: Callable[..., Engine], pipe: Any) -> None:
    SmallCard(pipe, budget=2 * 2 * 64 * 100, pixel=1)  # two rows with guidance, whatever the rows asked for
    engine = make(4, is_compiled=True)
    results = list(engine.paint([item(1), item(2), item(3)]))
    assert engine.batch_size == 2
    assert [result.batch.size for result in results if result.batch is not None] == [2, 2, 1]


def test_a_compiler_that_fails_leaves_the_model_to_run_without(
    make: Callable[..., Engine], pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such instruction")

    (plain,) = make().paint([item(1)])
    monkeypatch.setattr(tuned, "BACKEND", broken)
    forget_graphs()
    tuning = Tuning(attention="default", compile="regional", batch_size=2)
    assert tuned.apply(pipe, tuning, describe("cpu")) == {}
    identity = ModelIdentity(name="tiny-random", random_weights=True)
    loaded = LoadedModel(pipe, identity, 64, tuning, {}, torch.device("cpu"))
    assert loaded.is_compiled
    heard = Remembering()
    engine = Engine(loaded, heard)
    (result,) = engine.paint([item(1)])
    assert difference(image(result), image(plain)) <= LEVELS
    assert len(heard.warnings) == 1
    assert "no such instruction" in heard.warnings[0]
    assert not loaded.is_compiled
    (entry,) = (entry for entry in loaded.ledger if entry.name == "compile")
    assert not entry.matches
    assert "compiling failed" in entry.reason


def test_a_graph_that_cannot_be_captured_costs_the_compiler_and_not_the_device(
    make: Callable[..., Engine], pipe: Any
) -> None:
    forward, heard = pipe.unet.forward, Remembering()

    def captured(*args: Any, **more: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")

    def uncompile(error: Exception) -> None:
        pipe.unet.forward = forward

    pipe.unet.forward = captured
    for result in make(listener=heard, is_compiled=True, uncompile=uncompile).paint([item(1), item(2)]):
        image(result)
    assert len(heard.warnings) == 1 and "capture" in heard.warnings[0]


def test_what_was_spent_compiling_is_no_painting(make: Callable[..., Engine]) -> None:
    spent = iter([0.0, 1000.0, 1000.0, 1000.0])  # before and after each batch: the first one compiles
    engine = make(compile_seconds=lambda: next(spent))
    painted = [result for row in (1, 2) for result in engine.paint([item(row)])]
    stages = ("encode_prompt", "vae_encode", "denoise", "vae_decode")
    total = sum(getattr(result.timings, stage) for result in painted for stage in stages)
    assert engine.measurements.compiling == 1000
    assert engine.measurements.busy == pytest.approx(total - 1000)
