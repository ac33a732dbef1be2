"""Scripts of a worker that was taken over: it looks at the processes above it, and tries to get out."""

from __future__ import annotations

LOOK = r'''
"""Climb the tree of processes, and try to read, stop or trace each one."""
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
seen, pid = [], os.getppid()
while pid > 1 and len(seen) < int(sys.argv[1]):
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    found = {"pid": pid}
    def attempt(what, call):
        try:
            found[what] = "canary" in call()
        except OSError as error:
            found[what] = type(error).__name__
    attempt("environ", lambda: open(f"/proc/{pid}/environ").read())
    attempt("mem", lambda: str(os.open(f"/proc/{pid}/mem", os.O_RDONLY)))
    attempt("maps", lambda: open(f"/proc/{pid}/maps").read())
    attempt("fd", lambda: os.readlink(f"/proc/{pid}/fd/1"))
    found["traced"] = libc.ptrace(16, pid, 0, 0) == 0  # PTRACE_ATTACH
    seen.append(found)
    pid = int(fields["PPid"])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
caps = {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")}
print(json.dumps({"above": seen, "caps": caps, "no_new_privs": int(status["NoNewPrivs"])}), flush=True)
'''

REACH = r"""
import json, os, socket, sys
said = {}
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
    said["tcp"] = "connected"
except OSError as error:
    said["tcp"] = type(error).__name__
try:
    os.kill(os.getppid(), 0)
    said["signal"] = "sent"
except OSError as error:
    said["signal"] = type(error).__name__
os.makedirs("a"); os.makedirs("b"); open("a/f", "w").close()
os.replace("a/f", "b/f")
said["moved"] = os.path.exists("b/f")
child = os.fork()
if child == 0:
    os._exit(7)
said["child"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(said), flush=True)
"""
