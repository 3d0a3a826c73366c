"""Finds out whether this machine can boot a container at all, with nothing of ours in it; if not, says exactly why."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final

from nanumpay_backupd.system.process import die_with_parent
from tests.servers.tools import tools_path
from tests.system.cgroups import enter, make_places, remove_places

__all__ = ["ALONE", "NSPAWN", "OPTIONAL", "children", "kill", "leader_of", "why_not"]

ALONE: Final = ("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
"""What a container is started through: its mounts are seen by nobody else, and no process of it outlives its nspawn.

Without it a container goes on when nspawn was killed, as it is when the tests are."""

NSPAWN: Final = (
    "systemd-nspawn",
    "--quiet",
    # There may be no systemd on this machine that could be told of the container.
    *("--register=no", "--keep-unit"),
    # A network with nothing but its own 127.0.0.1: no port can be taken twice, and nothing comes from outside.
    "--private-network",
    *("--settings=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=pipe"),
    "--boot",
)
"""How every container is started; a folder and a machine's name come behind it."""
OPTIONAL: Final = "NANUMPAY_SYSTEM_TESTS"
"""Set to ``optional``, a machine that lets no container boot skips these tests instead of failing."""
_PATIENCE: Final = 30.0


def why_not() -> str:
    """Return why no container can be booted here, as a sentence; empty if one can. Takes about a second.

    What is booted is this machine's own /usr (read-only) with an empty /etc, so no answer can be a fault of ours.
    """
    if os.geteuid() != 0:
        return f"booting a container takes root, and this is user {os.geteuid()}: sudo make test-system"
    if shutil.which(NSPAWN[0], path=tools_path()) is None:
        return "systemd-nspawn is not on this machine: apt-get install -y systemd-container"
    with tempfile.TemporaryFile() as said:
        reason = _try(said.fileno())
        said.seek(0)
        words = [line.strip() for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return f"this machine does not let an empty container boot: {reason}: {' / '.join(words[-3:])}" if reason else ""


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children, the oldest first."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a container that was started `ALONE`, with everything in it, at once; harmless when it has ended."""
    # nspawn and not what waits for it: that reaps it.
    for pid in children(process.pid) or [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def leader_of(process: subprocess.Popen[bytes]) -> int | None:
    """Return the process id of the container's init, once systemd in it can be talked to; for one started `ALONE`."""
    with contextlib.suppress(OSError, IndexError):
        leader = children(children(process.pid)[0])[0]
        status = Path(f"/proc/{leader}/status").read_text(encoding="utf-8")
        inside = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1]
        if inside == "1" and Path(f"/proc/{leader}/root/run/systemd/private").exists():
            return leader
    return None


def _try(log: int) -> str:
    places = make_places(f"probe-{uuid.uuid4().hex[:8]}")

    def prepare() -> None:
        die_with_parent()
        enter(places)

    machine = f"probe{uuid.uuid4().hex[:8]}"
    argv = [*ALONE, *NSPAWN, "--directory=/", "--volatile=yes", f"--machine={machine}", "systemd.unit=sysinit.target"]
    environment = {"PATH": tools_path(), "LANG": "C.UTF-8"}
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, preexec_fn=prepare
    )
    try:
        deadline = time.monotonic() + _PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if leader_of(process) is not None:
                return ""
            time.sleep(0.02)
        code = process.poll()
        return f"systemd-nspawn ended with {code}" if code is not None else f"nothing came up within {_PATIENCE:.0f} s"
    finally:
        kill(process)
        remove_places(places)
