"""Ending a process with all that it started, whatever state these are in, and counting the memory that they take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from nanumpay_backupd.system.family import descendants, end_family, members

_STORY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = bytearray(os.urandom(1 << 20) * 60)
sleeps = [subprocess.Popen(["sleep", "1000"], start_new_session=own) for own in (False, True)]
deep = subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & wait"], start_new_session=True)
os.kill(sleeps[0].pid, signal.SIGSTOP)
print("ready", flush=True)
time.sleep(1000)
"""


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_family_is_found_counted_and_ended() -> None:
    """Children of children, stopped ones, those with sessions of their own and those deaf to signals: none stays."""
    process = subprocess.Popen([sys.executable, "-c", _STORY], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        # A child has its parent's name until it has become another program.
        names = ["sh", "sleep", "sleep", "sleep", "sleep"]
        found = members(process.pid)
        while sorted(member.name for member in found[1:]) != names:
            time.sleep(0.01)
            found = members(process.pid)
        family = descendants(process.pid)
        assert [member.pid for member in found] == [process.pid, *family]
        assert found[0].memory > 60 << 20
        assert all(member.memory > 0 for member in found)
        end_family(process.pid)
        assert process.wait() == -signal.SIGKILL
        assert not any(_lives(pid) for pid in family)
    finally:
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]


def test_what_has_ended_is_left_alone() -> None:
    """Neither a process that is gone nor one that waits for its parent is an error."""
    process = subprocess.Popen(["true"])
    while _lives(process.pid):
        time.sleep(0.01)
    end_family(process.pid)
    assert process.wait() == 0
    end_family(process.pid)
    assert process.pid not in descendants(os.getpid())
