"""Runs of the real worker with strace between them and the kernel: killed, refused or recorded at any system call.

A stable process has all modules loaded and forks for each run, so that starting an interpreter is not paid for each of
them; strace takes hold of the fork. Each run is some seconds later than the one before, by the worker's own clock, so
that no name is waited for. What must hold after a death stands in `survivors`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from nanumpay_backupd.settings.schema import RunSpec, encode_spec
from tests.servers.tools import PROJECT, find_tool

__all__ = ["Ended", "Stable", "stable"]


@dataclass(frozen=True)
class Ended:
    """How a run's process ended: its exit code (negative: the signal) and what it said."""

    code: int
    said: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the events it wrote."""
        found = []
        for line in self.said.splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found


class Stable:
    """The process that forks; made by `stable`."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self.folder = folder
        self._said = folder / "said"
        self.later = 0
        """Seconds that the last run's clock was ahead."""

    def run(
        self,
        spec: RunSpec,
        strace: Sequence[str] = (),
        *,
        hold: str = "",
        output: str = os.devnull,
        meanwhile: Callable[[], object] = lambda: None,
        limits: Mapping[str, int] | None = None,
    ) -> Ended:
        """Do a run, with strace's options between it and the kernel if there are any; returns how it ended.

        ``hold`` is a ``module:function`` and means: only in the thread that first gets there, and from there on; that
        is also when ``meanwhile`` is called. ``limits`` are resource limits by name, ``RLIMIT_NOFILE``; that of memory
        (``RLIMIT_AS``) is what it may take beyond what it has.
        """
        self.later += 2
        order = {
            "spec": base64.b64encode(encode_spec(spec)).decode(),
            "later": self.later,
            "said": str(self._said),
            "hold": hold,
            "limits": dict(limits or {}),
        }
        self._tell(json.dumps(order))
        word, thread = self._answer().split()
        assert word == "prepared"
        assert thread != "0", f"nobody came to {hold}:\n{self._said.read_text(errors='replace')}"
        tracer = _attach(thread, strace, output) if strace else None
        try:
            meanwhile()
            self._tell("go")
            word, code = self._answer().split()
            assert word == "ended"
        finally:
            if tracer is not None:
                tracer.wait(20)
                assert tracer.stderr is not None
                tracer.stderr.close()
        return Ended(int(code), self._said.read_text(encoding="utf-8", errors="replace"))

    def now(self) -> datetime:
        """Return the present moment of the last run's clock, a little later."""
        return datetime.now(UTC) + timedelta(seconds=self.later + 1)

    def _tell(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def _attach(pid: str, options: Sequence[str], output: str) -> subprocess.Popen[bytes]:
    """Let strace take hold of a process; it has when this returns."""
    tracer = subprocess.Popen(
        [find_tool("strace"), "-p", pid, "-o", output, *options], stderr=subprocess.PIPE, start_new_session=True
    )
    assert tracer.stderr is not None
    assert "attached" in _line(tracer.stderr), "strace must be allowed to trace (root, or ptrace_scope 0)"
    return tracer


def _line(stream: IO[bytes]) -> str:
    ready, _, _ = select.select([stream], [], [], 20)
    assert ready, "strace says nothing"
    return stream.readline().decode()


@contextlib.contextmanager
def stable(folder: Path) -> Iterator[Stable]:
    """Start the process that forks; it ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fault.stable"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Stable(process, folder)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0
