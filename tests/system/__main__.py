"""`make test-system`: can a container be booted here, is the Debian there, and then the tests of this folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tests.servers.tools import PROJECT
from tests.system.container import sweep
from tests.system.image import make_image
from tests.system.probe import OPTIONAL, why_not


def main(arguments: Sequence[str]) -> int:
    """Run the tests with pytest's arguments; returns an exit code, or becomes pytest."""
    reason = why_not()
    if reason:
        optional = os.environ.get(OPTIONAL) == "optional"
        print(f"{'SKIPPED' if optional else 'FAILED'}: the system tests did not run: {reason}", file=sys.stderr)
        return 0 if optional else 1
    sweep()
    make_image()
    sys.stdout.flush()
    os.chdir(PROJECT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "tests/system", *arguments])  # noqa: S606 - no shell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
