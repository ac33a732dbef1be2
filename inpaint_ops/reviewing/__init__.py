"""What people say of a run's results: marks, kept per reviewer; what counts; exports and imports."""

from inpaint_ops.reviewing.deciding import NOTHING, Decision, Tally, decide, decisions, tally
from inpaint_ops.reviewing.exporting import EXPORTS, Export, export
from inpaint_ops.reviewing.finals import Final, final_lines, finals
from inpaint_ops.reviewing.importing import read_changes
from inpaint_ops.reviewing.lineage import Child, Lineage, child_runs, has_begun, parent_of
from inpaint_ops.reviewing.marks import VERDICTS, Change, Mark, Opinion, Verdict
from inpaint_ops.reviewing.redoing import Redo, RedoOptions, prepare_redo, redo_rows
from inpaint_ops.reviewing.reviewers import check_reviewer
from inpaint_ops.reviewing.reviews import Reviews
from inpaint_ops.reviewing.rows import ReviewedRow, plan_of, reviewed_rows
from inpaint_ops.reviewing.saved_views import read_views, remove_view, save_view

__all__ = [
    "EXPORTS",
    "NOTHING",
    "VERDICTS",
    "Change",
    "Child",
    "Decision",
    "Export",
    "Final",
    "Lineage",
    "Mark",
    "Opinion",
    "Redo",
    "RedoOptions",
    "ReviewedRow",
    "Reviews",
    "Tally",
    "Verdict",
    "check_reviewer",
    "child_runs",
    "decide",
    "decisions",
    "export",
    "final_lines",
    "finals",
    "has_begun",
    "parent_of",
    "plan_of",
    "prepare_redo",
    "read_changes",
    "read_views",
    "redo_rows",
    "remove_view",
    "reviewed_rows",
    "save_view",
    "tally",
]
