"""The commands sync, copies and copy: what places lack, where a backup is, one more copy. Does nothing itself."""

from __future__ import annotations

from nanumpay_backupd.cli.actions import started_only, watched
from nanumpay_backupd.cli.context import Context, complain
from nanumpay_backupd.errors import EXIT_FAILED, EXIT_OK

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["copied_lines", "copies", "copy", "sync"]

_STYLES = {"verified": "green", "uploaded": "green", "pending": "yellow", "missing": "red", "corrupt": "red"}
_PROOFS = {
    "none": "-",
    "size": "size compared",
    "checksum": "checksum",
    "read": "read back",
    "structure": "read back and walked",
    "restore": "restored",
}
_NAMED = 3


def sync(context: Context) -> int:
    """Queue what destinations lack of what retention would keep there."""
    reply = context.ask("Sync", {"destination": context.args.destination, "job": context.args.job})
    places = reply["places"]
    lost = [(place["destination"], name) for place in places for name in place["lost"]]
    if context.json(reply):
        return EXIT_FAILED if lost else EXIT_OK
    for place in places:
        context.screen.line(_lacked(place))
    if any(place["queued"] for place in places):
        context.screen.line("They are sent as soon as their jobs are free; how it goes: backupctl status --watch")
    if not lost:
        return EXIT_OK
    told = ", ".join(f"{name} for {place}" for place, name in lost[:_NAMED])
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    hint = f"where copies of it are: backupctl copies {lost[0][1]}"
    complain(f"no file is left that could be sent of {told}{more}", hint, "artifact-missing", context.args.color)
    return EXIT_FAILED


def _lacked(place: Reply) -> str:
    from nanumpay_backupd.cli.words import plural, size

    count, waiting = len(place["queued"]), place["waiting"]
    name = f"{place['destination']} (job {place['job']})"
    before = f"; {plural(waiting, 'other')} waited already" if waiting else ""
    if count:
        return f"Queued {plural(count, 'backup')} for {name}, {size(place['size'])}{before}."
    return f"Nothing to send to {name}{before or ': it has all that it should'}."


def copies(context: Context) -> int:
    """Show where the copies of a backup are, and what is known of each."""
    from nanumpay_backupd.cli.terminal import Column
    from nanumpay_backupd.cli.words import size

    reply = context.ask("ListCopies", {"backup": context.args.backup})
    if context.json(reply):
        return EXIT_OK
    screen, times, found = context.screen, context.times(), reply["copies"]
    screen.line(screen.paint(reply["backup"], "bold"))
    screen.lines(
        screen.table(
            Column("PLACE", [copy["destination"] for copy in found]),
            Column("TYPE", [copy["type"] or "not configured" for copy in found], drop=3),
            Column("STATE", [screen.paint(copy["state"], _STYLES.get(copy["state"], "dim")) for copy in found]),
            Column("SIZE", [size(copy["size"]) for copy in found], right=True, drop=4),
            Column("PROVEN", [_proven(copy) for copy in found]),
            Column("WHEN", [times.both(copy["proven"]) if copy.get("proven") else "-" for copy in found], drop=2),
            Column("MEDIUM", [copy["media"] or "-" for copy in found], drop=1),
            Column("OFF-SITE", [{True: "yes", False: "no"}.get(copy.get("offsite"), "-") for copy in found]),
            Column("ENCRYPTED", [_encrypted(copy) for copy in found], drop=-1),
        )
    )
    for copy in found:
        if copy.get("error"):
            sign = screen.paint(screen.mark("warn"), "yellow")
            screen.line(f"{sign} {copy['destination']}: {copy['error']['message']}")
    return EXIT_OK


def _proven(copy: Reply) -> str:
    proof: str = copy["proof"]
    return _PROOFS.get(proof, proof)


def _encrypted(copy: Reply) -> str:
    """Say by what, and for whom: the last signs of the keys, by which people tell them apart."""
    if copy["encryption"] in {"", "none"}:
        return "no" if copy["encryption"] else "-"
    keys = [name[-8:] for name in copy["recipients"]]
    return f"{copy['encryption']} ({', '.join(keys) if keys else 'passphrase'})"


def copy(context: Context) -> int:
    """Make one more copy, or move one, and show it until it ends; the exit code tells the outcome."""
    args = context.args
    params = {"backup": args.backup, "destination": args.destination, "source": args.source, "move": args.move}
    return started_only(context, "CopyBackup", params) if args.no_wait else watched(context, "CopyBackup", params)


def copied_lines(ended: Reply, word: str) -> list[str]:
    """Say how a copy ended (``word`` is its outcome, painted)."""
    from nanumpay_backupd.cli.views import took

    said = [stage["detail"] for stage in ended["stages"] if stage["stage"] == "upload" and stage["detail"]]
    if ended["outcome"] == "failed":
        return [f"{word} after {took(ended)}: nothing was deleted."]
    return [f"{word} after {took(ended)}{': ' + said[-1] if said else ''}."]
