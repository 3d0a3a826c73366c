"""Groups: tables of them, one in detail, what a run of one made, and the command that restores one."""

from __future__ import annotations

from nanumpay_backupd.cli.context import PATIENT, Context
from nanumpay_backupd.cli.terminal import Column
from nanumpay_backupd.cli.views import job_schedule, outcome_style, outcome_text, took
from nanumpay_backupd.cli.words import plural, size
from nanumpay_backupd.errors import EXIT_OK, EXIT_REFUSED, BackupdError, UsageError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any

    from nanumpay_backupd.cli.terminal import Screen
    from nanumpay_backupd.cli.words import Times

    Reply = dict[str, Any]

__all__ = ["ended_lines", "group_lines", "group_rows", "groups_table", "is_group", "made_table", "restore_group"]

_STATES = {"whole": "green", "partial": "yellow", "gone": "red"}
_STATE_WORDS = {
    "whole": "whole: everything of it can be restored",
    "partial": "partial: not everything of it can be restored (any more)",
    "gone": "gone: nothing of it is left",
}
_MEMBER_WORDS = {
    "good": "verified",
    "unproven": "not read back yet",
    "corrupt": "corrupt",
    "gone": "gone: no copy is left",
}
_OF_ONE = ("at", "job", "swap", "to_db", "collection", "only", "option")
"""What can be said of the restore of one backup, and not of a group's."""


def is_group(name: str) -> bool:
    """Tell whether a name is the id of what a run of a group made."""
    _, middle, stamp = name.rpartition("-group-")
    return bool(middle) and len(stamp) == 19 and stamp[:4].isdigit() and stamp[10] == "T"


def groups_table(screen: Screen, groups: list[Reply], times: Times) -> list[str]:
    """Lay out the groups: when, how the last run went, of which jobs."""
    last = [group.get("last_run") for group in groups]
    return screen.table(
        Column("GROUP", [group["name"] for group in groups]),
        Column("SCHEDULE", [job_schedule(group, times) if group["enabled"] else "disabled" for group in groups]),
        Column("NEXT RUN", [times.both(group["next_run"]) if group.get("next_run") else "-" for group in groups]),
        Column(
            "LAST RUN",
            [f"{outcome_text(screen, run)} {times.ago(run['started'])}" if run else "never" for run in last],
        ),
        Column("JOBS", [" ".join(group["jobs"]) for group in groups], drop=1),
    )


def made_table(screen: Screen, made: list[Reply], times: Times) -> list[str]:
    """Lay out what runs of groups made, in the order given."""
    return screen.table(
        Column("GROUP", [one["id"] for one in made]),
        Column(
            "MADE",
            [times.both(one["started"]) for one in made],
            short=lambda: [times.when(one["started"]) for one in made],
            shorter=lambda: [times.ago(one["started"]) for one in made],
        ),
        Column("STATE", [screen.paint(one["state"], _STATES.get(one["state"], "red")) for one in made]),
        Column("SIZE", [size(sum(member["size"] for member in one["members"])) for one in made], right=True, drop=2),
        Column("JOBS", [_jobs_text(screen, one) for one in made], drop=1),
    )


def _jobs_text(screen: Screen, made: Reply) -> str:
    """Name the members, each with a mark that says whether its backup can be restored."""
    parts = []
    for member in made["members"]:
        good = member["state"] in {"good", "unproven"}
        mark = screen.paint(screen.symbols["ok" if good else "bad"], "green" if good else "red")
        parts.append(f"{member['job']}{mark}")
    return " ".join(parts)


def group_rows(screen: Screen, group: Reply, times: Times) -> list[tuple[str, str]]:
    """Return what the status says of a group: label and text."""
    rows = [("jobs", ", ".join(group["jobs"]))]
    if group["enabled"] and group["schedule"]:
        rows.append(("next run", times.both(group["next_run"]) if group.get("next_run") else "not planned"))
    last = group.get("last_run")
    if group.get("running"):
        rows.append((screen.paint("running", "cyan"), f"run {group['running']}"))
    rows.append(("last run", _last_run(screen, last, times) if last else "never"))
    newest = group.get("newest")
    if newest:
        state = screen.paint(newest["state"], _STATES.get(newest["state"], "red"))
        rows.append(("newest", f"{newest['id']}, {state}"))
        if group.get("newest_whole") != newest["id"]:
            rows.append(("last whole", group.get("newest_whole") or screen.paint("none", "yellow")))
    else:
        rows.append(("newest", "none yet"))
    return rows + [("note", text) for text in group["notes"]]


def _last_run(screen: Screen, run: Reply, times: Times) -> str:
    text = f"{outcome_text(screen, run)} {times.both(run['started'])}"
    return f"{text}, took {took(run)}" if run.get("ended") else text


def group_lines(screen: Screen, made: Reply, times: Times) -> list[str]:
    """Write what one run of a group made, what is left of it, and how it is restored."""
    state = screen.paint(_STATE_WORDS[made["state"]], _STATES.get(made["state"], "red"))
    members = made["members"]
    lines = [
        f"Group {screen.paint(made['id'], 'bold')}",
        f"  made      {times.exact(made['started'])}, {times.ago(made['started'])}, by run {made['run']}",
        f"  outcome   {screen.paint(made['outcome'], outcome_style(made['outcome']))}",
        f"  state     {state}",
    ]
    places = sorted({place for member in members for place in member["copies"]} - {"local"})
    if waiting := [place for place in places if place not in made["sent"]]:
        lines.append(f"  manifest  not yet at {', '.join(waiting)}: it goes there after the last copy")
    table = screen.table(
        Column("JOB", [member["job"] for member in members]),
        Column("BACKUP", [member.get("backup") or "none" for member in members]),
        Column("STATE", [_member_text(screen, member) for member in members]),
        Column("SIZE", [size(member["size"]) if member["copies"] else "-" for member in members], right=True),
        Column("COPIES", [" ".join(member["copies"]) or "none" for member in members]),
        indent="  ",
    )
    lines += ["", *table, "", screen.paint("Restore", "bold")]
    whole = made["state"] == "whole"
    if made["state"] != "gone":
        lines.append(f"  backupctl restore {made['id']}{'' if whole else ' --partial'} --dry-run")
    usable = [member for member in members if member["state"] in {"good", "unproven"}]
    lines += [f"  backupctl restore {member['backup']}    only {member['job']}" for member in usable]
    return lines


def _member_text(screen: Screen, member: Reply) -> str:
    if member["state"] == "never":
        return screen.paint(f"none was made: {member['outcome']} ({member['code'] or 'no code'})", "red")
    style = {"good": "green", "unproven": "yellow"}.get(member["state"], "red")
    return screen.paint(_MEMBER_WORDS[member["state"]], style)


def ended_lines(context: Context, ended: Reply, word: str) -> list[str]:
    """Say how a run of a group ended, and what it made or brought back."""
    if ended.get("action") == "group-restore":
        brought = f": {plural(len(ended.get('members') or ()), 'backup')} restored"
        return [f"{word} after {took(ended)}{brought if ended['outcome'] == 'succeeded' else '.'}"]
    if not ended.get("backup"):
        return [f"{word} after {took(ended)}; no group was made of it."]
    try:
        made = context.ask("DescribeGroup", {"group": ended["backup"]})["group"]
    except BackupdError:
        return [f"{word} after {took(ended)}: {ended['backup']}"]
    lines = [f"{word} after {took(ended)}: {made['id']}, {made['state']}"]
    return lines + [f"  {member['job']}: {member.get('backup') or 'no backup was made'}" for member in made["members"]]


def restore_group(context: Context) -> int:
    """Restore what a run of a group made: all plans are shown first; the exit code tells the outcome."""
    args = context.args
    wrong = next((name for name in _OF_ONE if getattr(args, name)), "")
    if wrong:
        flag = {"to_db": "--to"}.get(wrong, f"--{wrong}")
        raise UsageError(
            f"{flag} is for one backup, and {args.backup} is a group's", hint="its backups: backupctl show ID"
        )
    if not args.yes and not args.dry_run:
        context.must_be_asked(
            "replaces what is there of several jobs",
            f"look first at what it would do: backupctl restore {_called(args)} --dry-run; then add --yes",
        )
    params: Reply = {
        "group": args.backup,
        "holds": "database" if args.only_db else "files" if args.only_files else None,
        "partial": args.partial,
        "source": args.source,
        "overwrite": args.overwrite,
        **({"safety": False} if args.no_safety_backup else {}),
    }
    planned = context.ask("RestoreGroup", {**params, "dry_run": True}, timeout=PATIENT)
    made, plans = planned["group"], planned["plans"]
    if not args.json:
        context.screen.lines(_plans_lines(context, made, plans))
    if args.dry_run:
        if not context.json({"group": made, "plans": plans}):
            context.screen.line("Nothing was done.")
        return EXIT_OK
    if not args.yes and not _agreed(context, made, plans):
        context.screen.line("Nothing was done.")
        return EXIT_REFUSED
    from nanumpay_backupd.cli.actions import watched

    return watched(context, "RestoreGroup", {**params, "group": made["id"]})


def _called(args: Any) -> str:
    return f"{args.backup} latest" if args.which else str(args.backup)


def _plans_lines(context: Context, made: Reply, plans: list[Reply]) -> list[str]:
    from nanumpay_backupd.cli.restore import plan_lines

    screen = context.screen
    times = context.times()
    jobs = {member["backup"]: member["job"] for member in made["members"]}
    when = f"{times.both(made['started'])}, {times.ago(made['started'])}"
    lines = [f"Group {screen.paint(made['id'], 'bold')}, made {when}", ""]
    for at, plan in enumerate(plans, 1):
        lines.append(screen.paint(f"{at} of {len(plans)}: {jobs[plan['backup']]}", "bold"))
        lines += plan_lines(context, {"at": None, "backup": plan["backup"]}, plan)
    planned = {plan["backup"] for plan in plans}
    left = [member for member in made["members"] if member.get("backup") not in planned]
    for member in left:
        text = f"not restored: {member['job']} ({_MEMBER_WORDS.get(member['state'], 'no backup was made')})"
        lines.append(f"{screen.paint(screen.mark('warn'), 'yellow')} {text}")
    return [*lines, ""] if left else lines


def _agreed(context: Context, made: Reply, plans: list[Reply]) -> bool:
    """Ask; what replaces something is asked about by the group's name."""
    if not any(plan["target_exists"] for plan in plans):
        return context.typed("Restore it? [y/N]").lower() in {"y", "yes"}
    replaced = ", ".join(plan["database"] for plan in plans if plan["target_exists"])
    if context.typed(f"This replaces data in {replaced}. To go on, type the name of the group:") == made["group"]:
        return True
    context.screen.line("That is not its name.")
    return False
