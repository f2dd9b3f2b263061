"""Giving up everything a decoder does not need, for good, with what the platform offers.

Best effort by design: each step that this kernel or container refuses is left out, none may fail
the start. The limits that keep the consumer alive (time, memory) do not depend on this module.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
from contextlib import suppress
from typing import Final

NOBODY: Final = 65534

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_CAPABILITY_VERSION_3: Final = 0x20080522
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1


def confine(*, memory_bytes: int, parent_pid: int) -> None:
    """Confine this process, which must have a single thread and have imported all it needs."""
    _set_limits(memory_bytes)
    if os.geteuid() == 0:
        with suppress(OSError):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
    if sys.platform == "linux":
        _confine_on_linux()
    if os.getppid() != parent_pid:
        raise SystemExit("the consumer is gone")


def _set_limits(memory_bytes: int) -> None:
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_DATA, memory_bytes),
    ):
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))


def _confine_on_linux() -> None:
    libc = ctypes.CDLL(None)
    # A namespace with no network; being its owner would grant capabilities in it, so none are kept.
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC)
    libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    # Only now: the kernel forgets this one whenever credentials change.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _deny_files(libc)


def _deny_files(libc: ctypes.CDLL) -> None:
    """Refuse, by a Landlock ruleset without any rule, every file, TCP port and foreign process."""
    version = libc.syscall(
        _LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION
    )
    if version < 1:
        return
    # The kernel refuses rights it does not know yet: each version brought some more.
    file_rights = 2 ** {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16) - 1
    tcp_rights = 3 if version >= 4 else 0
    scopes = 3 if version >= 6 else 0
    rights = struct.pack("=QQQ", file_rights, tcp_rights, scopes)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, rights, ctypes.c_size_t(len(rights)), 0)
    if ruleset >= 0:
        libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)
