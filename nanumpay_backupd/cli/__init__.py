"""``backupctl``, the operator's terminal client: words, tables and questions; whatever is done is done by the daemon.

Only the standard library, `errors` and `control.client` are imported here, and those as late as possible: a status is
asked for often and must answer at once.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run one ``backupctl`` command line (default: ``sys.argv[1:]``) and return the process's exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["complete"]:  # for the shells, not for people: not in the help
        from nanumpay_backupd.cli.complete import complete

        return complete(words[1:])
    from nanumpay_backupd.cli.app import run

    return run(words)
