"""The long views: the whole status, one backup, one run. Lines only; nothing is written or asked here."""

from __future__ import annotations

from nanumpay_backupd.cli.protection import protection_rows
from nanumpay_backupd.cli.terminal import Column, Screen, width
from nanumpay_backupd.cli.together import group_rows
from nanumpay_backupd.cli.views import (
    ACTIONS,
    NO_JOBS,
    SLICES,
    copies_text,
    covered,
    fault_lines,
    job_schedule,
    kind_text,
    local_first,
    only_to_text,
    outcome_style,
    outcome_text,
    runs_table,
    settings_source,
    took,
)
from nanumpay_backupd.cli.waits import waiting_rows
from nanumpay_backupd.cli.words import Times, duration, number, plural, size
from nanumpay_backupd.wording import KEPT_OUTSIDE, counted, words_for

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    Reply = dict[str, Any]

__all__ = ["backup_lines", "run_lines", "status_lines"]

_HEALTH = {"ok": "green", "warning": "yellow"}
_STATE_WORDS = {
    "verified": "verified (read back and compared with what was dumped)",
    "committed": "committed, but not read back yet",
    "corrupt": "corrupt: what is stored is not what was dumped; do not rely on it",
    "legacy": "legacy (made by the old program; it has no manifest to compare with)",
}
_BY_RECEIPT = {
    "verified": "verified (as far as the program that stores the data says so; the data itself was not read)",
    "corrupt": "corrupt: the program that stores the data does not call it good any more; do not rely on it",
}
"""The same of backups of which the file is a receipt (`wording.KEPT_OUTSIDE`)."""
_HINT = " → "  # stands between a problem and what to do about it


def status_lines(screen: Screen, status: Reply, going: dict[str, str] | None = None) -> list[str]:
    """Write the whole status: health in words, what is wrong and what to do, each job, settings, disk.

    ``going`` says how far runs are, by the run's id.
    """
    times = Times(status["timezone"], status["now"])
    lines = _health_lines(screen, status, times)
    for job in status["jobs"]:
        lines.extend(["", *_job_lines(screen, job, times, status["problems"], going or {})])
    if not status["jobs"]:
        lines.extend(["", NO_JOBS])
    for group in status.get("groups") or ():
        when = job_schedule(group, times) if group["enabled"] else screen.paint("disabled, runs only by hand", "yellow")
        head = f"group {screen.paint(group['name'], 'bold')}  {when}"
        lines.extend(["", head, *_block(screen, group_rows(screen, group, times))])
    if status.get("fleet"):
        from nanumpay_backupd.cli.fleet import fleet_lines

        lines.extend(["", *fleet_lines(screen, status["fleet"], times)])
    free = f"{size(status['free_bytes'])} free in {status['backups_path']}"
    return [*lines, "", *_block(screen, [("settings", settings_source(status["settings"], times)), ("disk", free)], "")]


def _health_lines(screen: Screen, status: Reply, times: Times) -> list[str]:
    problems = status["problems"]
    health = status["health"]
    style = _HEALTH.get(health, "red")
    if health == "ok":
        words = "All is well"
    elif health == "warning":
        words = f"Working, with {plural(len(problems), 'thing')} to look at" if problems else "Working, with warnings"
    else:
        words = f"Failing: {plural(len(problems), 'problem')}" if problems else "Failing"
    uptime = duration(times.since(status["started"]))
    about = screen.paint(f"nanumpay-backupd {status['version']}, up {uptime}", "dim")
    lines = [f"{screen.paint(screen.mark('dot'), style)} {screen.paint(words, 'bold')}   {about}"]
    faults = _known_faults(status)
    for problem in problems:
        sentence, _, hint = problem.partition(_HINT)
        lines.append(f"  {screen.paint(screen.mark('warn'), style, 'bold')} {sentence}")
        hint = hint or next((fault["hint"] for fault in faults if fault["message"] in sentence), "")
        if hint:
            lines.append(f"    {screen.mark('hint')} {hint}")
    return lines


def _known_faults(status: Reply) -> list[Reply]:
    """Collect the faults that a problem's sentence may be about; they carry what to do."""
    faults = [status["settings"].get("problem")]
    for job in status["jobs"]:
        faults.append((job.get("last_run") or {}).get("error"))
        faults.extend(copy.get("error") for copy in (job.get("newest_backup") or {}).get("copies", ()))
    return [fault for fault in faults if fault and fault["message"]]


def _job_lines(screen: Screen, job: Reply, times: Times, told: list[str], going: dict[str, str]) -> list[str]:
    """Write one job's block; warnings that ``told`` already has are not repeated."""
    head = screen.paint(job["name"], "bold") + "  "
    head += job_schedule(job, times) if job["enabled"] else screen.paint("disabled, runs only by hand", "yellow")
    rows = []
    if job["enabled"] and job["schedule"]:
        rows.append(("next run", times.both(job["next_run"]) if job.get("next_run") else "not planned"))
    rows.extend(waiting_rows(screen, job, times))
    last = job.get("last_run")
    running = job.get("running")
    if running and running != (last or {}).get("id"):
        far = f": {going[running]}" if running in going else ""
        rows.append((screen.paint("running", "cyan"), f"run {running}{far}"))
    rows.append(("last run", _last_run(screen, job, last, times) if last else "never"))
    error = (last or {}).get("error")
    if error and not any(error["message"] in problem for problem in told):
        rows.extend(("", line) for line in fault_lines(screen, error))
    success = job.get("last_success")
    if success and last and success["id"] != last["id"]:
        rows.append(("last good", f"{times.both(success['started'])}"))
    rows.extend(protection_rows(screen, job, times, told))
    rows.extend(_newest_rows(screen, job, times))
    if job.get("encryption", "none") != "none":
        rows.append(("encryption", job["encryption"]))
    rows.extend(
        (screen.paint("warning", "yellow"), text) for text in job["warnings"] if not any(text in one for one in told)
    )
    return [head, *_block(screen, rows)]


def _last_run(screen: Screen, job: Reply, run: Reply, times: Times) -> str:
    if run.get("outcome") is None:
        stages = run["stages"]
        stage = f", stage {stages[-1]['stage']}" if stages else ""
        return f"{outcome_text(screen, run)} for {duration(times.since(run['started']))}{stage}   run {run['id']}"
    text = f"{outcome_text(screen, run)} {times.both(run['started'])}"
    newest = job.get("newest_backup")
    if newest and newest["id"] == run.get("backup"):
        return f"{text}: {size(newest['size'])} in {took(run)}"
    return f"{text}, took {took(run)}" if run.get("ended") else text


def _newest_rows(screen: Screen, job: Reply, times: Times) -> list[tuple[str, str]]:
    newest = job.get("newest_backup")
    if not newest:
        return [("backups", "none yet")]
    state = screen.paint(newest["state"], "green" if newest["state"] == "verified" else "yellow")
    age = "" if (job.get("last_run") or {}).get("backup") == newest["id"] else f", {times.ago(newest['created'])}"
    words = words_for(job.get("type") or "mongodb")
    documents = "" if newest["kind"] == "legacy" else f", {words.count_items(newest['documents'])}"
    # A run that is going has not come to them yet.
    wanted = [] if job.get("running") else [name for name in job["destinations"] if _meant_for(newest, name)]
    copies = copies_text(screen, newest["copies"], wanted)
    rows = [
        ("newest", f"{newest['id']}  {state}{documents}{age}"),
        ("copies", " ".join(filter(None, (copies, only_to_text(newest))))),
    ]
    if job["pending_uploads"]:
        due = sorted(copy["next_attempt"] for copy in newest["copies"] if copy.get("next_attempt"))
        again = f", next try {times.ago(due[0])}" if due else ""
        waiting = screen.paint(f"{plural(job['pending_uploads'], 'copy', 'copies')} waiting", "yellow")
        rows.append(("uploads", waiting + again))
    return [*rows, *_kept_rows(screen, job, times)]


def _meant_for(backup: Reply, place: str) -> bool:
    """Tell whether a copy of a backup is wanted at a place."""
    only = backup.get("only_to")
    return only is None or place in only


def _kept_rows(screen: Screen, job: Reply, times: Times) -> list[tuple[str, str]]:
    """Say how much is kept, by which rules, and what should be gone but is locked at its place."""
    amount = f"{plural(job['backups'], 'backup')}, {size(job['total_size'])}"
    rules: dict[str, list[str]] = {}
    for place in job["retention"]:
        rules.setdefault(place["rule"], []).append(place["destination"])
    if len(rules) == 1:
        rows = [("kept", f"{amount} (keeps {next(iter(rules))})")]
    else:
        rows = [("kept", amount), *(("", f"{', '.join(places)}: keeps {rule}") for rule, places in rules.items())]
    for place in job["retention"]:
        if place["locked"]:
            held = f"{plural(place['locked'], 'copy', 'copies')} ({size(place['locked_bytes'])})"
            until = f" until {times.when(place['locked_first'])}" if place.get("locked_first") else ""
            last = (
                f" to {times.when(place['locked_last'])}"
                if place.get("locked_last") != place.get("locked_first")
                else ""
            )
            label = screen.paint("locked", "yellow")
            rows.append((label, f"{held} at {place['destination']} should be gone and are locked{until}{last}"))
    return rows


def backup_lines(screen: Screen, backup: Reply, times: Times, others: list[Reply] | None = None) -> list[str]:
    """Write one backup: what it holds, how far it was proven, where its copies are, how to restore it by hand.

    ``others`` are all backups of its job: a slice is restored together with some of them.
    """
    manifest = backup.get("manifest") or {}
    made = times.both(backup["created"]) + (f", by run {backup['run']}" if backup.get("run") else "")
    known = _STATE_WORDS | (_BY_RECEIPT if manifest.get("source", {}).get("type") in KEPT_OUTSIDE else {})
    state = screen.paint(known.get(backup["state"], str(backup["state"])), _backup_style(backup["state"]))
    rows = [
        ("job", f"{backup['job']} ({kind_text(backup)})"),
        ("made", made),
        ("state", state),
        *([(screen.paint("odd", "yellow"), backup["odd"])] if backup.get("odd") else []),
        *([("pinned", f"retention leaves it alone: {backup['pinned']}")] if backup.get("pinned") else []),
        *([("copies", f"{only_to_text(backup)}, as its run was told")] if backup.get("only_to") is not None else []),
        ("artifact", f"{backup['artifact']}, {size(backup['size'])} ({number(backup['size'])} bytes)"),
        *_manifest_rows(manifest, times),
        *_slice_rows(backup, times),
    ]
    lines = [screen.paint(backup["id"], "bold"), *_block(screen, rows), "", screen.paint("Copies", "bold")]
    lines.extend(_copies_lines(screen, backup["copies"], times))
    collections = manifest.get("source", {}).get("collections", [])
    if collections:
        lines.extend(["", screen.paint("Collections", "bold"), *_collections_table(screen, collections)])
    parts = manifest.get("source", {}).get("parts", [])
    if parts:
        lines.extend(["", *_parts_table(screen, manifest["source"]["type"], parts)])
    if backup["kind"] in SLICES and (backup.get("source") or "mongodb") == "mongodb":
        return [*lines, *_replay_lines(screen, backup, others or [])]
    return [*lines, "", screen.paint("Restore by hand", "bold"), *_restore_lines(backup, manifest)]


def _backup_style(state: str) -> str:
    return {"verified": "green", "corrupt": "red"}.get(state, "yellow")


def _manifest_rows(manifest: Reply, times: Times) -> list[tuple[str, str]]:
    if not manifest:
        return []
    source, artifact, consistency = manifest["source"], manifest["artifact"], manifest["consistency"]
    collections, parts = source["collections"], source.get("parts", [])
    documents = sum(one["documents"] for one in collections) + sum(one["items"] for one in parts)
    holds = counted(source["type"], documents, len(collections) + len(parts))
    oplog = manifest.get("kind") in SLICES and source["type"] == "mongodb"
    if oplog:
        holds = plural(consistency["entries"], "oplog entry", "oplog entries")
    if source["type"] == "mongodb":
        holds += f" of {', '.join(source['databases']) or 'no database'}"
    if manifest.get("closed"):
        holds = "its manifest is encrypted, and there is no key here that opens it"
    raw = f"{size(artifact['raw_bytes'])} before compression ({artifact['compression']})"
    rows = [
        ("sha256", artifact["sha256"]),
        ("holds", f"{holds}, {raw}"),
        ("encryption", _encryption(manifest)),
        ("source", _source(manifest)),
        *([] if oplog else [("consistency", _consistency(source["type"], consistency, times))]),
        ("tools", ", ".join(f"{name} {version}" for name, version in manifest["tools"].items()) or "not recorded"),
    ]
    for check in manifest.get("verification", ()):
        verdict = "passed" if check["ok"] else "FAILED"
        detail = f": {check['detail']}" if check.get("detail") else ""
        spent = duration(check["seconds"])
        rows.append(("checked", f"{times.when(check['at'])}, {check['level']}, {verdict} in {spent}{detail}"))
    return rows


def _source(manifest: Reply) -> str:
    source = manifest["source"]
    version = f"{source['type']} {source['server_version']}".strip()
    return ", ".join(part for part in (version, source["topology"], f"host {manifest['host']}") if part)


def _encryption(manifest: Reply) -> str:
    """Say how the files are encrypted: those here, and those elsewhere where that differs."""
    here, elsewhere = manifest["artifact"], manifest.get("elsewhere")
    if not elsewhere:
        return _sealed(here)
    return f"{_sealed(here)} here; elsewhere {_sealed(elsewhere)}"


def _sealed(artifact: Reply) -> str:
    seal = artifact.get("seal")
    if not seal:
        return str(artifact.get("encryption", "none"))
    return (
        f"{artifact['encryption']}, {'to ' + ', '.join(seal['recipients']) if seal['recipients'] else 'a passphrase'}"
    )


def _slice_rows(backup: Reply, times: Times) -> list[tuple[str, str]]:
    """Say what changes a slice holds and what it follows."""
    if backup["kind"] not in SLICES:
        return []
    manifest = backup.get("manifest") or {}
    rows = [("covers", f"{covered(backup, times)} (oplog times {backup['start']} to {backup['end']})")]
    return [
        *rows,
        *((name, manifest[key]) for name, key in (("follows", "parent"), ("chain", "chain")) if manifest.get(key)),
    ]


def _consistency(kind: str, consistency: Reply, times: Times) -> str:
    """Say of which moment a backup is, or why it is of none."""
    if consistency.get("moment"):
        entries = plural(consistency["entries"], "oplog entry", "oplog entries")
        replay = f", {entries} to replay" if kind == "mongodb" else ""
        return f"{consistency['level']}: as of {times.when(consistency['moment'])}{replay}"
    return ": ".join(part for part in (consistency["level"], consistency.get("reason")) if part)


def _copies_lines(screen: Screen, copies: list[Reply], times: Times) -> list[str]:
    if not copies:
        return ["  none"]
    copies = local_first(copies)
    lines = screen.table(
        Column("WHERE", [copy["destination"] for copy in copies]),
        Column("STATE", [screen.paint(copy["state"], _copy_style(copy["state"])) for copy in copies]),
        Column("SIZE", [size(copy["size"]) for copy in copies], right=True),
        Column("SINCE", [times.when(copy["updated"]) for copy in copies], drop=1),
        Column("KEY", [copy["key"] for copy in copies]),
        indent="  ",
    )
    for copy in copies:
        lock = copy.get("lock")
        if lock:
            until = f"until {times.when(lock['until'])}" if lock.get("until") else "until somebody lifts it"
            lines.append(f"  {copy['destination']}: should be gone, but is locked there {until}")
        error = copy.get("error")
        if error:
            again = f", next try {times.both(copy['next_attempt'])}" if copy.get("next_attempt") else ""
            lines.append(f"  {copy['destination']}: tried {plural(copy['attempts'], 'time')}{again}")
            lines.extend(fault_lines(screen, error, "    "))
    return lines


def _copy_style(state: str) -> str:
    return {"uploaded": "green", "verified": "green", "pending": "yellow"}.get(state, "red")


def _collections_table(screen: Screen, collections: list[Reply]) -> list[str]:
    columns = [
        Column("NAME", [f"{one['database']}.{one['name']}" for one in collections]),
        Column("DOCUMENTS", [number(one["documents"]) for one in collections], right=True),
        Column("SIZE", [size(one["bytes"]) for one in collections], right=True),
        Column("INDEXES", [number(one["indexes"]) for one in collections], right=True),
    ]
    if any(one.get("type", "collection") != "collection" for one in collections):
        columns.append(Column("TYPE", [one.get("type", "collection") for one in collections]))
    return screen.table(*columns, indent="  ")


def _parts_table(screen: Screen, kind: str, parts: list[Reply]) -> list[str]:
    words = words_for(kind)
    columns = [
        Column("NAME", [one["name"] for one in parts]),
        Column(words.heading, [number(one["items"]) for one in parts], right=True),
        Column("SIZE", [size(one["bytes"]) for one in parts], right=True),
    ]
    if len({one["kind"] for one in parts}) > 1:
        columns.append(Column("KIND", [one["kind"] for one in parts]))
    return [screen.paint("Holds", "bold"), *screen.table(*columns, indent="  ")]


def _restore_lines(backup: Reply, manifest: Reply) -> list[str]:
    from nanumpay_backupd.cli.byhand import elsewhere_commands, full_commands, import_commands, own_commands

    source = manifest.get("source", {})
    if source.get("type", "mongodb") != "mongodb":
        lines = own_commands(backup["artifact"], source.get("by_hand", []), stream=source.get("form") == "stream")
        return [f"  {line}" for line in lines]
    elsewhere = manifest.get("elsewhere")
    more = [f"  {line}" for line in elsewhere_commands(elsewhere["name"])] if elsewhere else []
    if "mongoexport" in manifest.get("tools", ()):
        only = manifest["source"]["collections"][0]
        series = only.get("type") == "timeseries"
        lines = import_commands(backup["artifact"], only["database"], only["name"], series=series)
        return [*(f"  {line}" for line in lines), *more]
    databases = manifest.get("source", {}).get("databases") or ["nanumpay"]
    replays = bool(manifest.get("consistency", {}).get("entries"))
    return [*(f"  {line}" for line in full_commands(backup["artifact"], databases, replays=replays)), *more]


def _replay_lines(screen: Screen, backup: Reply, others: list[Reply]) -> list[str]:
    """Say how to look into a slice, and how its end is restored from the full before it."""
    from nanumpay_backupd.cli.byhand import chain_to, look_commands, replay_commands

    lines = [
        "",
        screen.paint("Look into it by hand", "bold"),
        *(f"  {one}" for one in look_commands(backup["artifact"])),
    ]
    lines += ["", screen.paint("Restore its end by hand", "bold")]
    chain = chain_to(backup, (backup.get("manifest") or {}).get("chain") or "", others)
    if chain.full is None or not chain.whole:
        gone = "its full is" if chain.full is None else "slices before it are"
        return [*lines, f"  {gone} not here any more; what can be restored: backupctl timeline {backup['job']}"]
    names = [one["artifact"] for one in chain.slices]
    return [*lines, *(f"  {line}" for line in replay_commands(chain.full["artifact"], names, backup["end"]))]


def run_lines(screen: Screen, run: Reply, times: Times, members: list[Reply] | None = None) -> list[str]:
    """Write one run: stages with their times, outcome, fault and warnings, and where its log is.

    ``members`` are the runs that the run of a group began.
    """
    rows = [
        (
            "job",
            f"{run['job']} (trigger: {', '.join(filter(None, (run['trigger'], ACTIONS.get(run.get('action', '')))))})",
        ),
        ("started", f"{times.exact(run['started'])}, {times.ago(run['started'])}"),
        ("outcome", outcome_text(screen, run) + (f" after {took(run)}" if run.get("ended") else "")),
    ]
    if run.get("group"):
        rows.append(("group run", run["group"]))
    if run.get("backup"):
        rows.append(("backup", run["backup"]))
    if run.get("error"):
        first, *others = fault_lines(screen, run["error"])
        rows.extend([("error", first), *(("", line) for line in others)])
    rows.extend((screen.paint("warning", "yellow"), text) for text in run["warnings"])
    lines = [f"Run {screen.paint(run['id'], 'bold')}", *_block(screen, rows)]
    stages = run["stages"]
    if stages:
        outcomes = [screen.paint(one.get("outcome") or "running", outcome_style(one.get("outcome"))) for one in stages]
        columns = [
            Column("STAGE", [one["stage"] for one in stages]),
            Column("OUTCOME", outcomes),
            Column("TOOK", [took(one) or duration(times.since(one["started"])) for one in stages], right=True),
            Column("DETAIL", [one["detail"] for one in stages]),
        ]
        lines.extend(["", *screen.table(*columns, indent="  ")])
    if members:
        lines.extend(["", *runs_table(screen, members, times)])
    return [*lines, "", f"Its log: backupctl logs {run['id']}"]


def _block(screen: Screen, rows: list[tuple[str, str]], indent: str = "  ") -> list[str]:
    """Align labels and texts in two columns; a row without label goes on with the text above."""
    room = max((width(label) for label, _ in rows), default=0) + 3
    lines = []
    for label, text in rows:
        shown = label if "\x1b" in label else screen.paint(label, "dim")
        gap = " " * (room - width(label))
        lines.append(f"{indent}{shown}{gap}{text}")
    return lines
