"""`make test-system`: can a container be booted here, is the Debian there, and then the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from tests.servers.tools import PROJECT
from tests.system.container import sweep
from tests.system.image import make_image
from tests.system.probe import OPTIONAL, why_not


def main(arguments: Sequence[str]) -> int:
    """Run the tests with pytest's arguments; returns an exit code."""
    reason = why_not()
    if reason:
        optional = os.environ.get(OPTIONAL) == "optional"
        print(f"{'SKIPPED' if optional else 'FAILED'}: the system tests did not run: {reason}", file=sys.stderr)
        return 0 if optional else 1
    sweep()
    make_image()
    # A cache of its own: what failed last is asked of the other tests (.ci/run).
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/system", *arguments]
    return subprocess.run(argv, cwd=PROJECT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
