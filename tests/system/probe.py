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

__all__ = ["NSPAWN", "OPTIONAL", "leader_of", "why_not"]

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


def leader_of(process: subprocess.Popen[bytes]) -> int | None:
    """Return the process id of the container's init, once systemd in it can be talked to."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        leader = int(children[0])
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
    argv = [*NSPAWN, "--directory=/", "--volatile=yes", f"--machine={machine}", "systemd.unit=sysinit.target"]
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
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
        remove_places(places)
