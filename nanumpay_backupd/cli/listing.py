"""backupctl ls: what the file trees of a backup hold, as ls -l shows it."""

from __future__ import annotations

from nanumpay_backupd.errors import EXIT_OK

TYPE_CHECKING = False  # not from typing, as in `errors`
if TYPE_CHECKING:
    from nanumpay_backupd.cli.context import Context, Reply

__all__ = ["ls"]

_PATIENCE = 3600.0
"""Seconds that the first listing of a large backup may take."""


def ls(context: Context) -> int:
    """List a folder of a backup, or all that is below it, a page at a time."""
    args = context.args
    wanted: Reply = {"backup": args.backup}
    if args.path:
        wanted["path"] = args.path
    if args.recursive:
        wanted["recursive"] = True
    entries: list[Reply] = []
    while True:
        page = {"skip": len(entries)} if entries else {}
        reply = context.ask("ListFiles", {**wanted, **page}, timeout=_PATIENCE)
        entries += reply["entries"]
        if not reply["more"]:
            break
    if not context.json({"backup": reply["backup"], "entries": entries}):
        context.screen.lines(_lines(entries))
    return EXIT_OK


def _lines(entries: list[Reply]) -> list[str]:
    """Return a line for each: mode, owner, size, time, path."""
    whose = [f"{entry['owner']}:{entry['group']}" for entry in entries]
    wide = max((len(text) for text in whose), default=0)
    size = max((len(f"{entry['size']:,}") for entry in entries), default=0)
    return [
        f"{entry['mode']}  {text:<{wide}}  {entry['size']:>{size},}  {entry['modified']}  {_shown(entry)}"
        for entry, text in zip(entries, whose, strict=True)
    ]


def _shown(entry: Reply) -> str:
    """Return its path for a terminal, and where a link leads."""
    path = _plain(entry["path"]) + ("/" if entry["mode"].startswith("d") else "")
    if not entry["target"]:
        return path
    return f"{path} {'->' if entry['mode'].startswith('l') else '='} {_plain(entry['target'])}"


def _plain(text: str) -> str:
    """Write what would move the cursor, or change the terminal, as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
