"""The pieces that several commands show: faults, outcomes, copies, tables of jobs, runs, backups and checks.

Each function turns replies of the protocol (shapes: control/com.nanumpay.Backup.varlink) into lines; none writes,
asks the daemon, or decides anything.
"""

from __future__ import annotations

import re

from nanumpay_backupd.cli.terminal import Column, Screen
from nanumpay_backupd.cli.words import Times, duration, number, oplog_moment, plural, schedule, size
from nanumpay_backupd.wording import words_for

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

_MONGODB = "mongodb"
__all__ = [
    "ACTIONS",
    "NO_JOBS",
    "SLICES",
    "backups_table",
    "checks_lines",
    "copies_text",
    "covered",
    "fault_lines",
    "job_schedule",
    "jobs_table",
    "kind_text",
    "local_first",
    "only_to_text",
    "outcome_style",
    "outcome_text",
    "prune_table",
    "runs_table",
    "settings_source",
    "took",
    "tree_lines",
]

NO_JOBS = "No job is configured yet: save the backup settings in the application's admin page."
SLICES = {"incremental", "differential"}
"""Kinds of backups that hold changes only."""
ACTIONS = {
    "collection": "one collection",
    "restore": "a restore",
    "slice": "a slice of changes",
    "upload": "queued copies",
    "verify": "a verification",
    "drill": "a drill",
    "copy": "a copy",
}
"""What a run does that makes no whole backup."""
_OUTCOMES = {"succeeded": "green", "degraded": "yellow", "failed": "red", "interrupted": "red"}
_SLICE_ID = re.compile(r"-(?:slice|diff)-[\dT-]{19}$")
_VERDICTS = ("keep", "locked", "delete")
_VERDICT_STYLES = {"keep": "green", "locked": "yellow", "delete": "red"}
_GOOD_COPIES = {"uploaded", "verified"}
_STATES = {"verified": "green", "committed": "yellow", "corrupt": "red", "missing": "red", "pending": "yellow"}


def outcome_style(outcome: str | None) -> str:
    """Name the colour of an outcome; a run that is still going is cyan."""
    return "cyan" if outcome is None else _OUTCOMES.get(outcome, "yellow")


def outcome_text(screen: Screen, run: Reply) -> str:
    """Write how a run ended, or that it is running."""
    outcome = run.get("outcome")
    return screen.paint(outcome or "running", outcome_style(outcome))


def took(run: Reply) -> str:
    """Write how long a run or a stage took; empty while it is going."""
    ended = run.get("ended")
    return duration(Times.between(run["started"], ended)) if ended else ""


def fault_lines(screen: Screen, fault: Reply, indent: str = "") -> list[str]:
    """Write a fault: its sentence and code, then what to do about it."""
    lines = [f"{indent}{fault['message']} (code {fault['code']})"]
    if fault.get("hint"):
        lines.append(f"{indent}{screen.mark('hint')} {fault['hint']}")
    return lines


def local_first(copies: list[Reply]) -> list[Reply]:
    """Put the copy on this host before the others, which keep their order."""
    return sorted(copies, key=lambda one: str(one["destination"] != "local"))


def copies_text(screen: Screen, copies: list[Reply], wanted: list[str] | None = None, *, brief: bool = False) -> str:
    """Write where a backup's copies are, in few cells: ``local✓ app✓ nas…pending``; good ones need no word.

    ``wanted`` names the destinations that should have one; those without are shown as ``none``. ``brief`` leaves the
    words away where the mark says enough.
    """
    parts = []
    present = {copy["destination"] for copy in copies}
    for copy in local_first(copies):
        state = copy["state"]
        word = "" if brief and screen.unicode else state
        if state in _GOOD_COPIES:
            mark, style = screen.symbols["ok"], "green"
        elif state == "pending":
            mark, style = f"{screen.symbols['wait']}{word}", "yellow"
        else:
            mark, style = f"{screen.symbols['bad']}{word}", "red"
        parts.append(copy["destination"] + screen.paint(mark, style))
    parts.extend(
        name + screen.paint(f"{screen.symbols['bad']}none", "yellow") for name in wanted or [] if name not in present
    )
    return " ".join(parts) or "none"


def only_to_text(backup: Reply) -> str:
    """Say for which places alone a backup was meant: ``only to: nas``; empty: for all."""
    places = backup.get("only_to")
    return "" if places is None else f"only to: {', '.join(places) or 'local'}"


def job_schedule(job: Reply, times: Times) -> str:
    """Say the schedule of a job or a group in words, with the name that its time zone has at the next run."""
    text = schedule(job["schedule"], times.label(job["timezone"], job.get("next_run")))
    return f"{text}, with group {job['group']}" if job.get("group") else text


def settings_source(state: Reply, times: Times) -> str:
    """Say where the application's settings come from, and why not by change stream where that is so."""
    server = state.get("server") or "MongoDB"
    mode = state["mode"]
    if mode == "off":
        return "host file only (no MongoDB is configured)"
    if mode == "change-stream":
        text = f"change stream of {server}"
    elif mode == "polling":
        text = f"polling {server} (not a replica set, so it has no change stream)"
    else:
        text = f"connecting to {server}"
    if state.get("since"):
        text += f", since {times.both(state['since'])}"
    if state["origin"] == "cache":
        text += "; the last good settings are in force"
    elif state["origin"] == "none":
        text += "; no settings have been read yet"
    return text


def jobs_table(screen: Screen, jobs: list[Reply], times: Times) -> list[str]:
    """Lay out jobs: what, when, how the last run went, how much is kept."""
    last = [job.get("last_run") for job in jobs]
    return screen.table(
        Column("JOB", [job["name"] for job in jobs]),
        Column("SCHEDULE", [job_schedule(job, times) if job["enabled"] else "disabled" for job in jobs]),
        Column(
            "NEXT RUN",
            [_moment(job.get("next_run"), times) for job in jobs],
            short=lambda: [times.when(job["next_run"]) if job.get("next_run") else "-" for job in jobs],
            shorter=lambda: [times.ago(job["next_run"]) if job.get("next_run") else "-" for job in jobs],
        ),
        Column(
            "LAST RUN",
            [f"{outcome_text(screen, run)} {times.ago(run['started'])}" if run else "never" for run in last],
            short=lambda: [outcome_text(screen, run) if run else "never" for run in last],
        ),
        Column("BACKUPS", [number(job["backups"]) for job in jobs], right=True, drop=2),
        Column("SIZE", [size(job["total_size"]) for job in jobs], right=True, drop=3),
        Column("DESTINATIONS", [" ".join(job["destinations"]) or "none" for job in jobs], drop=4),
    )


def runs_table(screen: Screen, runs: list[Reply], times: Times) -> list[str]:
    """Lay out runs, in the order given: when, why, how they ended and what came of them."""
    return screen.table(
        Column("RUN", [run["id"] for run in runs]),
        Column("JOB", [run["job"] for run in runs], drop=3),
        *([Column("HOST", [run.get("host") or "-" for run in runs])] if any(run.get("host") for run in runs) else []),
        Column(
            "STARTED",
            [times.both(run["started"]) for run in runs],
            short=lambda: [times.when(run["started"]) for run in runs],
            shorter=lambda: [times.ago(run["started"]) for run in runs],
        ),
        Column("TRIGGER", [_trigger(run) for run in runs], drop=4),
        Column("OUTCOME", [outcome_text(screen, run) for run in runs]),
        Column("TOOK", [took(run) or "-" for run in runs], right=True, drop=-2),
        Column(
            "RESULT",
            [_result(run) for run in runs],
            short=lambda: [_result(run, brief=True) for run in runs],
            shorter=lambda: [(run.get("error") or {}).get("code", "-") for run in runs],
            drop=-1,
        ),
    )


def _trigger(run: Reply) -> str:
    """Write why a run was started; what makes no whole backup is told apart."""
    action = run.get("action", "backup")
    return str(run["trigger"]) if action == "backup" else f"{run['trigger']}, {action}"


def _result(run: Reply, *, brief: bool = False) -> str:
    error = run.get("error")
    if error:
        return str(error["code"]) if brief else f"{error['message']} ({error['code']})"
    if run.get("backup"):
        return str(run["backup"])
    stages = run["stages"]
    if stages and run.get("outcome") is None:
        return f"in stage {stages[-1]['stage']}"
    return "-" if brief else next((stage["detail"] for stage in reversed(stages) if stage["detail"]), "-")


def backups_table(screen: Screen, backups: list[Reply], times: Times) -> list[str]:
    """Lay out backups, in the order given, with the state of every copy; what all have in common has no column."""
    when = [times.when(backup["created"]) for backup in backups]
    kinds = [Column("KIND", [kind_text(b) for b in backups], short=lambda: [b["kind"] for b in backups], drop=2)]
    covers = [Column("COVERS", [covered(backup, times) or "-" for backup in backups], drop=3)]
    return screen.table(
        Column("BACKUP", [backup["id"] for backup in backups]),
        Column(
            "WHEN",
            [f"{text}, {times.ago(backup['created'])}" for text, backup in zip(when, backups, strict=True)],
            short=lambda: when,
            shorter=lambda: [times.ago(backup["created"]) for backup in backups],
        ),
        *(kinds if any(backup["kind"] != "full" for backup in backups) else []),
        *(covers if any(backup["kind"] in SLICES for backup in backups) else []),
        Column("SIZE", [size(backup["size"]) for backup in backups], right=True, drop=-1),
        Column(_heading(backups), [_documents(backup) for backup in backups], right=True, drop=1),
        Column(
            "STATE",
            [_state(screen, backup) for backup in backups],
            shorter=lambda: [_state(screen, backup | {"pinned": ""}) for backup in backups],
        ),
        Column(
            "COPIES",
            [" ".join(filter(None, (copies_text(screen, b["copies"]), only_to_text(b)))) for b in backups],
            shorter=lambda: [copies_text(screen, backup["copies"], brief=True) for backup in backups],
        ),
    )


def kind_text(backup: Reply) -> str:
    """Write what a backup is of: ``full``, ``collection nanumpay.users``."""
    return " ".join(part for part in (backup["kind"], backup.get("collection")) if part)


def _heading(backups: list[Reply]) -> str:
    """Return what all of the backups count; different things have no common word."""
    kinds = {backup.get("source") or _MONGODB for backup in backups}
    if kinds == {_MONGODB}:
        return "DOCS"
    return words_for(kinds.pop()).heading if len(kinds) == 1 else "ITEMS"


def _documents(backup: Reply) -> str:
    """Count documents; nobody counted those of a legacy backup, and a slice of the oplog holds changes."""
    oplog = backup["kind"] in SLICES and (backup.get("source") or _MONGODB) == _MONGODB
    return "-" if backup["kind"] == "legacy" or oplog else number(backup["documents"])


def _state(screen: Screen, backup: Reply) -> str:
    """Write what is known of a backup's content, that data may be missing, that retention must leave it alone."""
    words = [screen.paint(backup["state"], _STATES.get(backup["state"], "dim"))]
    words += [screen.paint("odd", "yellow")] if backup.get("odd") else []
    return " ".join([*words, *(["pinned"] if backup.get("pinned") else [])])


def covered(backup: Reply, times: Times) -> str:
    """Say of which moment a full is, or from when to when a slice leads; empty: of none."""
    if not backup.get("end"):
        return ""
    end = oplog_moment(backup["end"])
    if backup["kind"] not in SLICES:
        return f"as of {times.exact(end)}"
    first, last = times.exact(oplog_moment(backup["start"])), times.exact(end)
    day, _, rest = last.partition(" ")
    zone = last.rpartition(" ")[2]
    if first.endswith(f" {zone}"):
        first = first.rpartition(" ")[0]
    return f"{first} … {rest if first.startswith(f'{day} ') else last}"


def prune_table(screen: Screen, lines: list[Reply]) -> list[str]:
    """Lay out what retention says about each copy, with its reason."""
    # What goes is next to the summary.
    lines = sorted(lines, key=lambda line: _VERDICTS.index(line["action"]))
    return screen.table(
        Column("BACKUP", [_about(line) for line in lines]),
        Column("WHERE", [line["destination"] for line in lines]),
        Column("ACTION", [screen.paint(line["action"], _VERDICT_STYLES[line["action"]]) for line in lines]),
        Column("SIZE", [size(line["size"]) for line in lines], right=True, drop=1),
        Column("WHY", [line["reason"] for line in lines]),
    )


def _about(line: Reply) -> str:
    """Name what a line of prune is about: a backup, or many slices at once."""
    if line.get("slices"):
        return f"{plural(line['slices'], 'slice')} of {_SLICE_ID.sub('', line['backup'])}"
    return f"{line['backup']}{' (assumed)' if line.get('assumed') else ''}"


def checks_lines(screen: Screen, checks: list[Reply]) -> list[str]:
    """Write one line per check with its mark, and what to do, or what is advised, below; a count at the end."""
    styles = {"ok": ("ok", "green"), "warning": ("warn", "yellow")}
    lines = []
    names = Column("", [check["name"] for check in checks])
    for check in checks:
        mark, style = styles.get(check["state"], ("bad", "red"))
        padded = check["name"].ljust(names.width)
        lines.append(f"{screen.paint(screen.mark(mark), style)} {padded}  {check['message']}")
        if check["hint"]:
            hint = f"{screen.mark('hint')} {check['hint']}"
            lines.append(f"  {' ' * names.width}  {screen.paint(hint, 'dim') if check['state'] == 'ok' else hint}")
    failed = sum(check["state"] not in styles for check in checks)
    warned = sum(check["state"] == "warning" for check in checks)
    summary = f"{plural(len(checks), 'check')}: {number(failed)} failed, {plural(warned, 'warning')}"
    lines.append(screen.paint(summary, "red" if failed else "yellow" if warned else "green"))
    return lines


def tree_lines(value: object, indent: str = "") -> list[str]:
    """Write nested settings as an indented outline, one value per line; empty ones are shown as such."""
    if isinstance(value, dict):
        lines = []
        for key, inner in value.items():
            if isinstance(inner, (dict, list)) and inner and not _flat(inner):
                lines.append(f"{indent}{key}:")
                lines.extend(tree_lines(inner, indent + "  "))
            else:
                lines.append(f"{indent}{key}: {_scalar(inner)}")
        return lines
    if isinstance(value, list):
        lines = []
        for inner in value:
            first, *rest = tree_lines(inner, indent + "  ") or [f"{indent}  -"]
            lines.extend([f"{indent}- {first[len(indent) + 2 :]}", *rest])
        return lines
    return [f"{indent}{_scalar(value)}"]


def _flat(value: object) -> bool:
    return isinstance(value, list) and not any(isinstance(inner, (dict, list)) for inner in value)


def _scalar(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_scalar(inner) for inner in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not set" if value in (None, "", {}) else str(value)


def _moment(moment: str | None, times: Times) -> str:
    return times.both(moment) if moment else "-"
