"""The commands that make, stop, send or delete something: run, cancel, send, delete. Questions are asked here.

Each takes the context and returns the exit code. `watched` and `started_only` serve every command that starts a run.
"""

from __future__ import annotations

import contextlib

from nanumpay_backupd.cli.context import PATIENT, Context, complain, run_name
from nanumpay_backupd.errors import (
    EXIT_BUSY,
    EXIT_DEGRADED,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REFUSED,
    BackupdError,
    UnreachableError,
)

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["EXIT_BY_OUTCOME", "cancel", "delete", "run", "send", "start_only", "started_only", "to_the_end", "watched"]

EXIT_BY_OUTCOME = {
    "succeeded": EXIT_OK,
    "degraded": EXIT_DEGRADED,
    "cancelled": EXIT_INTERRUPTED,
    "skipped": EXIT_BUSY,
}

_MAKING = {"backup", "slice", "upload"}
_LOST = {"daemon-unreachable", "daemon-stopping", "watch-ended"}


def run(context: Context) -> int:
    """Start a run and show it until it ends; Ctrl-C leaves it running. The exit code tells the outcome."""
    args = context.args
    params = {
        "job": args.job,
        "force": args.force,
        "kind": args.kind,
        "collection": args.collection,
        "format": args.format,
        "disable_notifications": args.disable_notifications,
        "only_to": args.only_to,
        "holds": "database" if args.only_db else "files" if args.only_files else None,
    }
    if params["holds"] and not args.job:
        from nanumpay_backupd.cli.several import run_several

        return run_several(context, params)
    if context.args.no_wait:
        return started_only(context, "Run", params)
    return watched(context, "Run", params)


def watched(context: Context, method: str, params: Reply) -> int:
    """Call a method that starts a run, show the run until it ends, and return the exit code of its outcome."""
    ended = to_the_end(context, method, params)
    if ended is None:
        return EXIT_INTERRUPTED
    context.json({"run": ended})
    return EXIT_BY_OUTCOME.get(ended.get("outcome") or "", EXIT_FAILED)


def to_the_end(context: Context, method: str, params: Reply) -> Reply | None:
    """Call a method that starts a run, and show the run and how it ended; returns it, None: Ctrl-C stopped that.

    With ``--json`` nothing is shown.
    """
    seen: dict[str, Reply] = {}
    said: set[str] = set()
    try:
        said = _follow(context, method, params, seen)
    except KeyboardInterrupt:
        _detached(context, seen.get("run"))
        return None
    except BackupdError as error:
        if "run" not in seen or error.code not in _LOST:
            raise
        raise UnreachableError(
            f"lost the daemon while run {seen['run']['id']} was going: {error.message}",
            hint=f"what became of the run, once the daemon is back: backupctl show {seen['run']['id']}",
            code=error.code,
        ) from None
    ended = seen["run"]
    if not context.args.json:
        _summary(context, ended, said)
    return ended


def started_only(context: Context, method: str, params: Reply) -> int:
    """Call a method that starts a run, and return without waiting for its end."""
    started = start_only(context, method, params)
    context.json({"run": started})
    return EXIT_BUSY if started.get("outcome") == "skipped" else EXIT_OK


def start_only(context: Context, method: str, params: Reply) -> Reply:
    """Call a method that starts a run, and say so (with ``--json`` nothing); returns the run."""
    started: Reply = context.ask(method, params)["run"]
    if context.args.json:
        return started
    if started.get("outcome") == "skipped":
        _summary(context, started, set())
    else:
        context.screen.line(f"Started {run_name(started)}.")
        _ways_on(context, started)
    return started


def _follow(context: Context, method: str, params: Reply, seen: dict[str, Reply]) -> set[str]:
    """Show the stream of a run and return the messages that were shown.

    ``seen["run"]`` is the run as it was heard of last, also when this is interrupted.
    """
    if context.args.json:
        for reply in context.stream(method, params):
            seen["run"] = reply["run"]
        return set()
    from nanumpay_backupd.cli.progress import Progress

    with Progress(context.screen) as progress:
        for reply in context.stream(method, params):
            if "run" not in seen:
                started = reply["run"]
                progress.say(f"R{run_name(started)[1:]}")
            seen["run"] = reply["run"]
            progress.feed(reply["run"], reply.get("event"))
        return progress.said


def _detached(context: Context, started: Reply | None) -> None:
    """Say that Ctrl-C did not stop the run, and how it can be followed or stopped."""
    if context.args.json:
        return
    if started is None:
        context.screen.line("Stopped before the daemon answered; see: backupctl runs")
        return
    context.screen.line(f"No longer watching. Run {started['id']} goes on in the daemon.")
    _ways_on(context, started)


def _ways_on(context: Context, started: Reply) -> None:
    context.screen.line("  watch it:  backupctl status --watch")
    context.screen.line(f"  its log:   backupctl logs -f {started['id']}")
    context.screen.line(f"  stop it:   backupctl cancel {started['id']}")


def _summary(context: Context, ended: Reply, said: set[str]) -> None:
    """Say in a sentence what came of a run; faults go to standard error in the usual form.

    Warnings that were ``said`` while it went are not repeated.
    """
    screen = context.screen
    for warning in [text for text in ended["warnings"] if text not in said]:
        screen.line(f"{screen.paint(screen.mark('warn'), 'yellow')} {warning}")
    screen.lines(_sentences(context, ended))
    error = ended.get("error")
    if error:
        complain(error["message"], error["hint"], error["code"], context.args.color)
    outcome = ended.get("outcome")
    if outcome == "degraded" and ended.get("action", "backup") in _MAKING:
        screen.line("The backup on this host is good. A copy that is pending is made by itself once its place works.")
    if outcome in {"failed", "degraded", "interrupted"}:
        screen.line(f"Details: backupctl show {ended['id']}   log: backupctl logs {ended['id']}")


def _sentences(context: Context, ended: Reply) -> list[str]:
    from nanumpay_backupd.cli.views import outcome_style, took

    outcome = ended.get("outcome") or "unknown"
    word = context.screen.paint(outcome.capitalize(), outcome_style(outcome), "bold")
    if outcome == "skipped":
        return [f"{word}: nothing was done."]
    action = ended.get("action", "backup")
    if action == "restore":
        return _restored(ended, word)
    if action in {"group", "group-restore"}:
        from nanumpay_backupd.cli.together import ended_lines

        return ended_lines(context, ended, word)
    if action in {"verify", "drill"}:
        from nanumpay_backupd.cli.proofs import proven_lines

        return proven_lines(context, ended, word)
    if action == "copy":
        from nanumpay_backupd.cli.placing import copied_lines

        return copied_lines(ended, word)
    if ended.get("backup"):
        made, *copies = _made(context, ended["backup"])
        return [f"{word} after {took(ended)}: {made}", *copies]
    if action == "slice" and outcome == "succeeded":
        # What was not written about needs no file.
        found = next((stage["detail"] for stage in reversed(ended["stages"]) if stage["detail"]), "nothing new")
        return [f"{word} after {took(ended)}: {found}."]
    broken = [stage["stage"] for stage in ended["stages"] if stage.get("outcome") == outcome]
    where = f" in stage {broken[-1]}" if broken and outcome != "succeeded" else ""
    return [f"{word} after {took(ended)}{where}{'' if outcome == 'succeeded' else '; no backup was made'}."]


def _restored(ended: Reply, word: str) -> list[str]:
    """Say how a restore ended, what it brought, and how to go back."""
    from nanumpay_backupd.cli.views import took

    done = [stage["detail"] for stage in ended["stages"] if stage["stage"] in {"restore", "swap"} and stage["detail"]]
    lines = [f"{word} after {took(ended)}{': ' + '; '.join(done) if done and ended['outcome'] == 'succeeded' else '.'}"]
    if ended.get("backup"):
        lines.append(f"What was there before is in {ended['backup']}.")
        lines.append(f"  go back to it:  backupctl restore {ended['backup']}")
        lines.append(f"  not needed:     backupctl delete {ended['backup']} --force")
    return lines


def _made(context: Context, identifier: str) -> list[str]:
    """Describe the backup that a run made: file, size, what it holds, and where its copies are."""
    from nanumpay_backupd.cli.views import SLICES, copies_text, only_to_text
    from nanumpay_backupd.cli.words import plural, size
    from nanumpay_backupd.wording import words_for

    with contextlib.suppress(BackupdError):
        backup = context.ask("DescribeBackup", {"backup": identifier})["backup"]
        kind = backup.get("source") or "mongodb"
        held = words_for(kind).count_items(backup["documents"])
        if backup["kind"] in SLICES and kind == "mongodb":
            entries = backup.get("manifest", {}).get("consistency", {}).get("entries", 0)
            held = plural(entries, "oplog entry", "oplog entries")
        holds = f"{size(backup['size'])}, {held}, {backup['state']}"
        copies = f"Copies: {copies_text(context.screen, backup['copies'])}"
        return [f"{backup['artifact']} ({holds})", " ".join(filter(None, (copies, only_to_text(backup))))]
    return [identifier]


def cancel(context: Context) -> int:
    """Stop a run; without an id the one that is running."""
    reply = context.ask("Cancel", {"run": context.args.run})
    if not context.json(reply):
        stopped = reply["run"]
        name = run_name(stopped)
        if stopped.get("outcome") is None:
            context.screen.line(f"Asked {name} to stop; it cleans up behind itself. See: backupctl runs")
        elif stopped["outcome"] == "cancelled":
            context.screen.line(f"Cancelled {name}.")
        else:
            context.screen.line(f"Nothing to stop: {name} had ended already ({stopped['outcome']}).")
    return EXIT_OK


def send(context: Context) -> int:
    """Queue a backup for the destinations that do not have it, or for one."""
    reply = context.ask("Send", {"backup": context.args.backup, "destination": context.args.destination})
    if context.json(reply):
        return EXIT_OK
    name, queued = reply["backup"], reply["queued"]
    if queued:
        context.screen.line(f"Queued {name} for {', '.join(queued)}; it is sent as soon as its job is free.")
        context.screen.line(f"  how it goes:  backupctl show {name}")
    else:
        context.screen.line(f"Nothing to send: {name} is there already, or is queued.")
    return EXIT_OK


def delete(context: Context) -> int:
    """Delete a backup with all its copies, or the copy at one destination."""
    args = context.args
    if not args.yes:
        context.must_be_asked()
    # "latest" is resolved before anybody is asked: what is named in the question is what goes.
    backup = context.ask("DescribeBackup", {"backup": args.backup})["backup"]
    if not args.yes and not context.confirm(_question(context, backup), backup["id"]):
        return _nothing_done(context)
    params = {"backup": backup["id"], "destination": args.destination, "force": args.force}
    reply = context.ask("Delete", params, timeout=PATIENT)
    if not context.json(reply):
        gone = [f"{line['backup']} at {line['destination']}" for line in reply["deleted"] if line["action"] == "delete"]
        context.screen.lines([f"Deleted {name}." for name in gone] or ["There was nothing to delete."])
    return EXIT_OK


def _question(context: Context, backup: Reply) -> str:
    from nanumpay_backupd.cli.words import size

    places = ", ".join(copy["destination"] for copy in backup["copies"]) or "none is left"
    about = f"{size(backup['size'])}, {context.times().both(backup['created'])}, {backup['state']}"
    context.screen.line(f"{context.screen.paint(backup['id'], 'bold')}: {about}")
    if context.args.destination:
        return f"Delete its copy at {context.args.destination} for good?"
    return f"Delete it with all its copies ({places}) for good?"


def _nothing_done(context: Context) -> int:
    context.screen.line("Nothing was deleted.")
    return EXIT_REFUSED
