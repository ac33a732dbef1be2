"""A limited process starts below the limits of whoever starts it, also where nobody may raise one."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

LOOK = """
import ctypes, resource, sys
from pathlib import Path
from inpaint_ops.manifest import excel, parquet
from inpaint_ops.previews import Helper, Job, Limits
from inpaint_ops.previews.helper import Whole
PR_CAPBSET_DROP, CAP_SYS_RESOURCE = 24, 24
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0)  # root's programs cannot raise a limit either
resource.setrlimit(resource.RLIMIT_CPU, (31, 32))
resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31))
data = Path(sys.argv[2]).read_bytes()
if sys.argv[1] == "picture":
    with Helper(Limits(cpu_seconds=600)) as helper:
        print(len(helper.make(Job("picture", 8, 10**6), [Whole(data)]).data) > 0)
else:
    reader = {"workbook": excel, "parquet": parquet}[sys.argv[1]]
    *_, last = reader.read_lines(data, max_bytes=2**30, max_row_bytes=2**20)
    print(last)
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    book, sink = openpyxl.Workbook(), io.BytesIO()
    for cells in (["image", "mask", "prompt"], ["a.png", "m.png", "x"]):
        book.active.append(cells)
    book.save(sink)
    (tmp_path / "m.xlsx").write_bytes(sink.getvalue())
    pq.write_table(pa.table({"image": ["a.png"], "mask": ["m.png"], "prompt": ["x"]}), tmp_path / "m.parquet")
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    return {"workbook": tmp_path / "m.xlsx", "parquet": tmp_path / "m.parquet", "picture": tmp_path / "a.png"}


@pytest.mark.parametrize(("kind", "says"), [("workbook", "{'end': 1}"), ("parquet", "{'end': 1}"), ("picture", "True")])
def test_files_are_read_below_lower_limits_that_stand(kind: str, says: str, files: dict[str, Path]) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK, kind, files[kind]], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == says, done.stderr
