"""Results as tables for people: what was measured, and what was not and why."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.results import CellResult, Results, Spread, load

_GB = 1e9


def line(result: CellResult) -> str:
    """One cell in a few words."""
    if result.ceilings:
        return ", ".join(f"{name} {value:.4g}" for name, value in list(result.ceilings.items())[:3])
    if result.status in ("failed", "dropped", "no effect"):
        return f"{result.status}: {result.reason}"
    if result.seconds_per_image is not None:
        return f"{result.seconds_per_image:.4g} s/image ({result.status})"
    return ", ".join(f"{name} {value:.4g}" for name, value in result.parts.items()) or result.status


def render(results: Results) -> str:
    """All tables of a run."""
    return "\n\n".join(filter(None, (_head(results), _ceilings(results), _presets(results), _ablation(results),
                                     _batches(results), _cold(results), _tiers(results), _rest(results))))  # fmt: skip


def ratio(result: CellResult, off: CellResult | None) -> tuple[float, float] | None:
    """Seconds per batch over those of its partner, by the medians and by the shortest: below 1 is faster.

    By the median of pairs where the two were painted in turn. The shortest is what other work on the machine disturbs
    least. None unless both were measured, at the same batch.
    """
    if result.seconds is not None and result.off_seconds is not None and result.in_turn is not None:
        return result.in_turn.median, result.seconds.min / result.off_seconds.min
    if off is None or result.seconds is None or off.seconds is None or result.batch != off.batch:
        return None
    return result.seconds.median / off.seconds.median, result.seconds.min / off.seconds.min


def drift(results: Results) -> float | None:
    """How far apart the same plain configuration came out at the beginning and the end: at least 1. None if unknown."""
    known = results.by_name()
    found = [ratio(one, known.get(one.cell.off or "")) for one in results.cells if one.cell.name.endswith("again")]
    changes = [change for pair in found if pair for change in pair[:1]]
    return max((max(change, 1 / change) for change in changes), default=None)


def _head(results: Results) -> str:
    card = results.device
    lines = [
        f"{results.program} benchmark of {results.started_at:%Y-%m-%d %H:%M} UTC, commit {results.commit or 'unknown'}",
        f"{card.name if card else 'no device'}"
        + (f", {card.total_memory / _GB:.1f} GB, driver {card.driver}" if card and card.kind == "cuda" else ""),
        f"{results.cores} cores, load {results.load_average[0]:.1f} when it began"
        + (f", {results.load_average_end[0]:.1f} at its end" if results.load_average_end else "")
        + (f"; {results.label}" if results.label else ""),
        ", ".join(f"{name} {version}" for name, version in results.versions.items()),
        f"{results.used:.0f} of {results.budget:.0f} s used. The weights are random: speed and memory are real, images "
        "mean nothing.",
    ]
    return "\n".join(lines)


def _ceilings(results: Results) -> str:
    rows = [[name, f"{value:.4g}"] for name, value in results.ceilings.items()]
    return _table("Ceilings of this device (the unit is in the name)", ["what", "median"], rows)


def _presets(results: Results) -> str:
    cells = [result for result in results.cells if result.cell.part == "presets"]
    return _table("Presets", _PAINTED, [_painted(result) for result in cells])


def _batches(results: Results) -> str:
    cells = [result for result in results.cells if result.cell.part == "batch"]
    return _table("Batches (auto)", _PAINTED, [_painted(result) for result in cells])


_PAINTED = ["cell", "batch", "s/image", "min", "max", "n", "images/s", "s/step", "peak GB", "of matmul", "note"]


def _painted(result: CellResult) -> list[str]:
    name = result.cell.name.partition("/")[2]
    if result.seconds is None or result.seconds_per_image is None:
        return [name, "", "-", "", "", "", "", "", "", "", f"{result.status}: {result.reason}"]
    rows = result.batch or 1
    return [
        name,
        str(rows),
        f"{result.seconds_per_image:.4g}",
        f"{result.seconds.min / rows:.4g}",
        f"{result.seconds.max / rows:.4g}",
        str(result.seconds.n),
        f"{1 / result.seconds_per_image:.3g}",
        _median(result.step_seconds),
        _peak(result),
        f"{result.matmul_fraction:.1%}" if result.matmul_fraction is not None else "",
        result.reason,
    ]


def _ablation(results: Results) -> str:
    known = results.by_name()
    rows = []
    for result in results.cells:
        if result.cell.part != "ablation" or result.cell.off is None:
            continue
        off = known.get(result.cell.off)
        change = ratio(result, off)
        name = result.cell.name.partition("/")[2]
        before = _seconds(off)
        if result.off_seconds is not None:
            before = f"{result.off_seconds.median / (result.batch or 1):.4g}"
        if change is None:
            why = f"{result.status}: {result.reason}" if result.seconds_per_image is None else "its partner has no time"
            rows.append([name, before, _seconds(result), "-", "", _peak(off), _peak(result), why])
        else:
            note = result.reason
            if result.cell.flips == "compile":
                note = f"the first call took {result.warm_up[0] - result.warm_up[-1]:.0f} s longer; {note}".rstrip("; ")
            figures = [f"{change[0]:.3f}", f"{change[1]:.3f}"]
            rows.append([name, before, _seconds(result), *figures, _peak(off), _peak(result), note])
    noise = drift(results)
    apart = f"; the plain one again came out {noise:.3f} apart, so less than that is noise" if noise else ""
    return _table(
        f"Each optimisation switched on alone (on/off below 1 is faster, by the medians and by the shortest{apart})",
        ["optimisation", "off s/image", "on s/image", "on/off", "shortest", "off GB", "on GB", "note"],
        rows,
    )


def _cold(results: Results) -> str:
    cells = [result for result in results.cells if result.cell.kind == "cold"]
    names = list(dict.fromkeys(name for result in cells for name in result.parts))
    rows = [
        [result.cell.name.partition("/")[2], *(f"{result.parts[name]:.2f}" if name in result.parts else "-"
                                               for name in names),
         "" if result.status == "measured" else f"{result.status}: {result.reason}"]
        for result in cells
    ]  # fmt: skip
    made = "made: random weights made on the device; read: safetensors from a folder, put out of the file cache first"
    return _table(f"Cold start in fresh processes, seconds ({made})", ["process", *names, "note"], rows)


def _tiers(results: Results) -> str:
    rows = []
    for result in results.cells:
        if result.cell.part == "tiers":
            verdict = {"measured": "fits", "reduced": "fits with a smaller batch"}.get(result.status, result.status)
            tuned = result.tuning
            chosen = (
                f"batch {tuned['batch_size']}, offload {tuned['offload']}, tiling {tuned['vae_tiling']}"
                if tuned
                else ""
            )
            rows.append([result.cell.name.partition("/")[2], verdict, _seconds(result), _peak(result),
                         f"{result.planned / _GB:.1f}" if result.planned else "", chosen, result.reason])  # fmt: skip
    return _table(
        "Memory tiers, emulated by capping the process (s/image at few steps: compare within this table alone)",
        ["tier", "verdict", "s/image", "peak GB", "planned GB", "as planned", "note"],
        rows,
    )


def _rest(results: Results) -> str:
    dropped = [result.cell.name for result in results.cells if result.status == "dropped"]
    failed = [
        f"{result.cell.name}" + (f" ({result.reason})" if result.cell.kind in ("ceilings", "folder") else "")
        for result in results.cells
        if result.status == "failed"
    ]
    lines = [f"Dropped for lack of time: {', '.join(dropped)}."] if dropped else []
    lines += [f"Failed: {'; '.join(failed)}."] if failed else []
    return "\n".join(lines)


def _seconds(result: CellResult | None) -> str:
    return f"{result.seconds_per_image:.4g}" if result and result.seconds_per_image is not None else "-"


def _median(spread: Spread | None) -> str:
    return f"{spread.median:.4g}" if spread else ""


def _peak(result: CellResult | None) -> str:
    """Reserved bytes of the card; on a CPU nothing, since the process's peak only ever grows."""
    if result is None or result.peak is None or result.weights is None:
        return ""
    return f"{result.peak.peak_reserved / _GB:.2f}"


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = [list(row) for row in rows]
    if not body:
        return ""
    used = [index for index, _ in enumerate(head) if any(row[index] for row in body)]
    lines = [[head[index] for index in used], *([row[index] for index in used] for row in body)]
    widths = [max(len(row[index]) for row in lines) for index in range(len(used))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines]
    return "\n".join([title, text[0], "  ".join("-" * width for width in widths), *text[1:]])


def main() -> None:
    """Print the tables of results that were saved: `python -m bench.tables FILE...`."""
    for name in sys.argv[1:]:
        print(render(load(Path(name))))


if __name__ == "__main__":
    main()
