"""Rows that are outliers of their run get their flags: the tables are gone through once more, on this machine's disk.

What an outlier is depends on all rows, so it is known only after the last one. The store is not asked again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inpaint_ops.records import Record
from inpaint_ops.runs.results_file import ResultsFile
from inpaint_ops.tallies.spread import FEWEST_ROWS, find_flags
from inpaint_ops.tallies.tables import TIMINGS_SCHEMA
from inpaint_ops.tallies.tally import Tally


def flag_outliers(results: ResultsFile, timings: Path, tally: Tally) -> ResultsFile:
    """Write the flags into `results.jsonl` and `timings.parquet`, and count them in the tally.

    Both files have the rows that the tally has, in the same order, and are closed. One row group (16,384 rows) is in
    memory at a time; of the results only lines of flagged rows are parsed. Returns the file to read from then on.
    """
    if all(one.count < FEWEST_ROWS for one in tally.spreads):
        return results
    marked = results.path.with_name("flagged.jsonl")
    table = timings.with_name("flagged.parquet")
    at = TIMINGS_SCHEMA.get_field_index("flags")
    with (
        results.path.open("rb") as lines,
        ResultsFile(marked) as out,
        pq.ParquetWriter(table, TIMINGS_SCHEMA) as writer,
    ):
        parquet = pq.ParquetFile(timings)
        for number in range(parquet.num_row_groups):
            group = parquet.read_row_group(number)

            def column(name: str, group: pa.Table = group) -> np.ndarray:
                return np.asarray(group.column(name).to_numpy(zero_copy_only=False), np.float64)

            found = find_flags(tally.spreads, column, group.num_rows)
            for row, flags, score in zip(group.column("row").to_pylist(), found.flags, found.scores, strict=True):
                line = lines.readline()
                if flags:
                    tally.add_flags(row, flags, float(score))
                    out.append(Record.model_validate_json(line).model_copy(update={"flags": tuple(flags)}))
                else:
                    out.append_line(row, line)
            writer.write_table(
                group.set_column(
                    at, TIMINGS_SCHEMA.field("flags"), pa.array(found.flags, TIMINGS_SCHEMA.field("flags").type)
                )
            )
        parquet.close()
    table.replace(timings)
    marked.replace(results.path)
    out.path = results.path
    return out
