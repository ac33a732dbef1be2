"""Views of a run, while it is running and after it has finished: what the pages in Airflow show, without Airflow.

Nothing here writes to the store, and no view needs a request per row: a finished run is read from its summary, its
table of timings and as much of its results as is shown; a running one from the progress that each shard stores every
few seconds.
"""

from inpaint_ops.browse.catalogue import Catalogue, RunEntry, RunPage, RunQuery
from inpaint_ops.browse.pictures import Pictures
from inpaint_ops.browse.run import RunView
from inpaint_ops.browse.state import RunState, ShardState
from inpaint_ops.browse.table import RecordTable, RowQuery
from inpaint_ops.browse.views import RunViews

__all__ = [
    "Catalogue",
    "Pictures",
    "RecordTable",
    "RowQuery",
    "RunEntry",
    "RunPage",
    "RunQuery",
    "RunState",
    "RunView",
    "RunViews",
    "ShardState",
]
