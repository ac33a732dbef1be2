"""Give up what a worker does not need, then become it: `python -I -S launch.py USER GROUPS PARENT -- COMMAND ...`.

Run as a script of its own, with the standard library alone, before any user's file is read. No program
started later gets back what it gives up:

- the rights of another user's files and processes, by becoming USER in GROUPS (`-`: stay who you are);
- root's capabilities: without CAP_SYS_PTRACE and with fewer capabilities than they have, a root worker cannot read the
  memory or the environment of the processes above it (commoncap's check in ptrace_may_access);
- new privileges by set-user-id programs (PR_SET_NO_NEW_PRIVS);
- the memory and environment of every process that it did not start, whoever owns it, signals to them, and TCP, by
  Landlock, where the kernel has it (Linux 5.19; signals 6.12, TCP 6.7).

The numbers are those of linux/prctl.h, linux/capability.h and linux/landlock.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITIES = 64
_CAPABILITY_VERSION_3 = 0x20080522
_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1
_FS_MAKE_BLOCK, _FS_REFER = 1 << 11, 1 << 13
_NET_BIND_TCP, _NET_CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_SIGNAL = 1 << 1
EXIT_ORPHANED = 4
"""The worker's exit code where the supervisor is gone: no process is left to take the results."""

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Never returns."""
    user, groups, parent, dashes, *command = sys.argv[1:]
    if dashes != "--":
        raise SystemExit("launch.py USER GROUPS PARENT -- COMMAND ...")
    give_up(None if user == "-" else int(user), [] if user == "-" else [int(one) for one in groups.split(",")])
    die_with_parent(int(parent))  # the kernel forgets it where the user changes, so after that
    os.execvp(command[0], command)  # noqa: S606  # the command is the supervisor's own


def give_up(user: int | None, groups: Sequence[int]) -> None:
    """Give up what this module's text lists; `groups` begins with the main one. The process must have one thread."""
    _drop_bounding_set()
    if user is not None:
        os.setgroups(groups[1:])
        os.setresgid(groups[0], groups[0], groups[0])
        os.setresuid(user, user, user)
    _drop_capabilities()
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if not restrict_by_landlock():
        print("no Landlock here: the worker can look into other processes of its user", file=sys.stderr, flush=True)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; end it now if that has happened."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_ORPHANED)


def restrict_by_landlock() -> bool:
    """Enter a Landlock domain; False where the kernel has none that lets files be moved between folders.

    A process in a domain may not look into one outside of it, which is what this is for (see "Ptrace restrictions" in
    the kernel's Documentation/userspace-api/landlock.rst). Of the file system it only closes the making of block
    devices: a domain must close something.
    """
    version = _libc.syscall(_SYS_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    if version < 2:  # the first one forbids to move a file from one folder to another, which Triton's cache does
        return False
    net = _NET_BIND_TCP | _NET_CONNECT_TCP if version >= 4 else 0
    scope = _SCOPE_SIGNAL if version >= 6 else 0
    known = 8 if version < 4 else 16 if version < 6 else 24  # bytes: a kernel refuses fields that it does not know
    attributes = struct.pack("=QQQ", _FS_MAKE_BLOCK | _FS_REFER, net, scope)[:known]
    rules = _libc.syscall(_SYS_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", _FS_REFER, root)
        added = _libc.syscall(_SYS_ADD_RULE, rules, _RULE_PATH_BENEATH, rule, 0)
        return bool(added == 0 and _libc.syscall(_SYS_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(root)
        os.close(rules)


def _drop_bounding_set() -> None:
    """So that not even a program of root's gets a capability back on exec; only who has CAP_SETPCAP can."""
    for capability in range(_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            return


def _drop_capabilities() -> None:
    with contextlib.suppress(OSError):
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, nothing = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    if _libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "the capabilities cannot be dropped")


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process (prctl(2)). Raises OSError."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


if __name__ == "__main__":
    main()
