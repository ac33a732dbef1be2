"""The same rows by what people would use instead: `python -m bench.peers`, see docs/benchmarks.md.

`job` makes the rows, broken ones among them; `loop`, `ray_loop` and `iopaint_folder` do them, each a program of its
own, as somebody who knows the library would write it; `usage` measures a process and all that it starts.
"""
