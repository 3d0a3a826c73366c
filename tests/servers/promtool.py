"""promtool, Prometheus' own checker: lints a scrape, checks rules, plays alerts against made-up series."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.servers.tools import find_tool

__all__ = ["promtool"]


def promtool(*arguments: str | Path, text: str = "", cwd: Path | None = None) -> None:
    """Run promtool with ``text`` as its input; fails with what it said when it finds anything."""
    argv = [str(find_tool("promtool")), *map(str, arguments)]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    # Lint complaints of a scrape go there.
    assert "error" not in done.stderr.lower() or "SUCCESS" in done.stdout, done.stderr
