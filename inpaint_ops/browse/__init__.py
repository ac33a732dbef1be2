"""Runs for people to look at, while they go and after: what the pages in Airflow show, without Airflow.

Nothing here writes to the store, and no view costs a request a row: a finished run is read from its summary, its table
of timings and as much of its results as is shown; a running one from the word that each shard leaves every few seconds.
"""

from inpaint_ops.browse.browser import Browser
from inpaint_ops.browse.catalogue import Catalogue, RunEntry, RunPage, RunQuery
from inpaint_ops.browse.pictures import Pictures
from inpaint_ops.browse.run import RunView
from inpaint_ops.browse.state import RunState, ShardState
from inpaint_ops.browse.table import RecordTable, RowQuery

__all__ = [
    "Browser",
    "Catalogue",
    "Pictures",
    "RecordTable",
    "RowQuery",
    "RunEntry",
    "RunPage",
    "RunQuery",
    "RunState",
    "RunView",
    "ShardState",
]
