"""``python -m tests.soak --hours 2``: a soak, and the report of it. ``--report FOLDER`` only writes the report anew."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tests.servers.environment import clean_environment

clean_environment()

from tests.servers.tools import PROJECT  # noqa: E402 - boto3 reads the environment when it is imported
from tests.soak.conductor import Plan, soak  # noqa: E402
from tests.soak.diary import Diary  # noqa: E402
from tests.soak.report import report  # noqa: E402


def main() -> int:
    """Return 0 when all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="The daemon under load and faults.")
    parser.add_argument("--hours", type=float, default=2.0, help="how long; fractions are allowed")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100000, help="of all that is drawn")
    parser.add_argument("--each", action="store_true", help="one fault of each kind instead")
    parser.add_argument("--out", type=Path, help="folder of what is written down (default: .soak/TIME)")
    parser.add_argument("--report", type=Path, help="only write the report of such a folder anew")
    parser.add_argument("--page", type=Path, help="where the report goes as a page (default: report.md in the folder)")
    options = parser.parse_args()
    folder = options.report or options.out or PROJECT / ".soak" / time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime())
    if not options.report:
        os.nice(10)
        plan = Plan(seconds=options.hours * 3600, seed=options.seed, each=options.each)
        soak(plan, Diary(folder))
    return report(folder, options.page or folder / "report.md")


sys.exit(main())
