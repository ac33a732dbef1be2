"""Standing jobs: entries in the store that say what to take and when; each time, what is new or changed becomes a run.

    jobs/<name>.yaml                          an entry, written by a person (`entries`)
    standing/<name>/<time>/claim.json         who starts the run of that time; put if absent, so that one does
    standing/<name>/<time>/manifest.jsonl     the rows that were new or changed then: the run's manifest
    standing/<name>/<time>/rows.txt.gz        what each of these rows was made of, a line per row
    standing/<name>/<time>/triggered          its run was triggered, or there was nothing to do
    standing/<name>/<time>/settled            what that run took is among what has been taken
    standing/<name>/taken.txt.gz              what has been taken by runs that ended well

`looking.look` starts what is due; `taking` says what is new.
"""

from inpaint_ops.standing.entries import Entry, read_entries
from inpaint_ops.standing.looking import Look, Start, look, note_triggered

__all__ = ["Entry", "Look", "Start", "look", "note_triggered", "read_entries"]
