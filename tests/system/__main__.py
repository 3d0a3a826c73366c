"""`make test-system`: can a container be booted here, is the Debian there, and then the tests of this folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from tests.servers.tools import PROJECT
from tests.system.container import sweep
from tests.system.image import make_image
from tests.system.probe import OPTIONAL, why_not


def main(arguments: Sequence[str]) -> int:
    """Run ``test`` with pytest's arguments, or only make the ``image``; returns an exit code."""
    reason = why_not()
    if arguments[:1] == ["image"]:
        if not reason:
            make_image()
        return 0
    if reason:
        optional = os.environ.get(OPTIONAL) == "optional"
        print(f"{'SKIPPED' if optional else 'FAILED'}: the system tests did not run: {reason}", file=sys.stderr)
        return 0 if optional else 1
    sweep()
    make_image()
    # A cache of its own: what failed last is asked of the other tests (.ci/run).
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/system", *arguments[1:]]
    os.chdir(PROJECT)
    sys.stdout.flush()
    return _become(argv)


def _become(argv: Sequence[str]) -> NoReturn:
    """Go on as this program: who ends us ends the tests, which end what they started."""
    os.execv(argv[0], list(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
