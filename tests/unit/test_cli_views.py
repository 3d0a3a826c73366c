"""The lines that `backupctl` makes of the protocol's records."""

from __future__ import annotations

from typing import Any

import pytest

from nanumpay_backupd.cli.details import backup_lines, run_lines, status_lines
from nanumpay_backupd.cli.views import (
    backups_table,
    checks_lines,
    copies_text,
    covered,
    jobs_table,
    prune_table,
    runs_table,
    settings_source,
    tree_lines,
)
from nanumpay_backupd.cli.words import Times
from tests.servers.canned_backupd import (
    BACKUP,
    SLICE,
    UPLOAD_FAULT,
    backup,
    backups,
    copies,
    job,
    manifest,
    moment,
    oplog_time,
    retention,
    run,
    slice_backup,
    slice_manifest,
    slices,
    stage,
    status,
)
from tests.unit.cli_screens import screen

TIMES = Times("Asia/Seoul", "2026-11-20T20:00:00Z")
PLAIN = screen()[0]


def status_text(health: str = "ok", **changes: Any) -> str:
    """Write a status as it is seen without a terminal."""
    return "\n".join(status_lines(PLAIN, status(health, **changes)))


def test_a_good_status() -> None:
    """All that an operator wants to know of a healthy daemon is on twelve short lines."""
    assert status_text().splitlines() == [
        "● All is well   nanumpay-backupd 0.1.0, up 3 days 4 h",
        "",
        "nanumpay  daily at 02:00 KST",
        "  next run   2026-11-22 02:00 KST, in 21 h",
        "  last run   succeeded 2026-11-21 02:00 KST, 3 h ago: 160 MB in 5.0 s",
        "  restore    recoverable until 04:59:48 (12 s ago); RPO 15m: kept",
        "  drill      last 2026-11-16: ok, restore took 41 s; RTO 1h: kept; next 2026-11-23 05:00 KST",
        f"  newest     {BACKUP}  verified, 12,345 documents",
        "  copies     local✓ app✓ nas✓",
        "  kept       7 backups, 1.12 GB (keeps 7, at most 30 days)",
        "",
        "settings   change stream of localhost:27017 (replica set rs0), since 2026-11-18 01:00 KST, 3 days ago",
        "disk       12.3 GB free in /opt/nanumpay/data/backups",
    ]


def test_a_problem_comes_with_what_to_do() -> None:
    """Under a problem stands the hint of the fault it is about; the fault is not told again below."""
    text = status_text("warning")
    assert text.startswith("● Working, with 1 thing to look at")
    assert f"    → {UPLOAD_FAULT['hint']}" in text.splitlines()
    assert text.count("530 Login incorrect") == 1
    assert "uploads    1 copy waiting, next try in 3 min" in text
    assert "nas…pending" in text


def test_a_problem_that_brings_its_own_hint() -> None:
    """What stands behind the arrow in a problem's sentence is shown below it, once."""
    text = status_text("failing", problems=["it is gone → look for it"])
    assert text.splitlines()[1:3] == ["  ! it is gone", "    → look for it"]


def test_a_failing_status() -> None:
    """A failing daemon says so first, and still shows the last good backup and the source of the settings."""
    text = status_text("failing")
    assert text.startswith("● Failing: 2 problems")
    assert "→ systemctl status mongod; is the URI in backupd.toml right?" in text
    assert "last good   2026-11-21 02:00 KST, 3 h ago" in text
    assert "connecting to localhost:27017" in text
    assert "the last good settings are in force" in text


def test_a_status_without_jobs() -> None:
    """A fresh installation says what to do first."""
    assert "save the backup settings in the application's admin page" in status_text("empty")


def test_the_fault_of_a_last_run_is_shown_where_no_problem_tells_it() -> None:
    """A fault that the problems leave out stands under its run with hint and code."""
    text = status_text(jobs=[job(last_run=run(outcome="failed", error=UPLOAD_FAULT))])
    assert f"{UPLOAD_FAULT['message']} (code destination-login)" in text
    assert f"→ {UPLOAD_FAULT['hint']}" in text


def test_other_states_of_a_job() -> None:
    """Disabled, never run, running, warned: each is said in its own words."""
    never = status_text(
        jobs=[job(last_run=None, last_success=None, newest_backup=None, next_run=None, warnings=["w1"])]
    )
    assert "next run   not planned" in never
    assert "last run   never" in never
    assert "backups    none yet" in never
    assert "warning    w1" in never
    disabled = status_text(jobs=[job(enabled=False)])
    assert "nanumpay  disabled, runs only by hand" in disabled
    assert "next run" not in disabled
    going = run(ended=None, outcome=None, started="2026-11-20T19:59:00Z", stages=[stage("dump", 0, None)])
    assert "running for 1 min, stage dump   run " in status_text(jobs=[job(last_run=going)])
    assert "\n  running    run r7\n  last run   succeeded" in status_text(jobs=[job(running="r7")])
    legacy = backup(kind="legacy", state="legacy", documents=0, copies=[])
    text = status_text(jobs=[job(newest_backup=legacy)])
    assert "legacy" in text
    assert "document" not in text
    assert "app✗none nas✗none" in text


def test_what_waits_and_what_is_made_again() -> None:
    """Status says what is due and waits for what, until when, and when a failed run is made again."""
    due, until = "2026-11-20T18:00:00Z", "2026-11-20T22:00:00Z"
    waiting = [
        {"what": "backup", "due": due, "reason": "blackout", "until": until, "active": 0, "most": 2},
        {"what": "upload", "due": due, "reason": "number", "active": 2, "most": 2},
    ]
    again = [{"action": "drill", "due": until, "attempt": 2, "attempts": 3}]
    lines = status_text(jobs=[job(waiting=waiting, again=again)]).splitlines()
    at = lines.index("  next run   2026-11-22 02:00 KST, in 21 h")
    assert lines[at + 1 : at + 4] == [
        "  waits      the backup, due 2026-11-21 03:00 KST, for the blackout until 2026-11-21 07:00 KST",
        "  waits      queued uploads, due 2026-11-21 03:00 KST: 2 of 2 runs are active",
        "  again      the drill is tried again 2026-11-21 07:00 KST, in 2 h, attempt 2 of 3",
    ]


@pytest.mark.parametrize(
    "changes,text",
    [
        ({"mode": "off"}, "host file only"),
        ({"mode": "polling"}, "polling db (not a replica set, so it has no change stream)"),
        ({"mode": "polling", "origin": "cache"}, "; the last good settings are in force"),
        ({"mode": "connecting", "origin": "none"}, "connecting to db; no settings have been read yet"),
        ({"mode": "connecting", "server": ""}, "connecting to MongoDB"),
    ],
)
def test_where_settings_come_from(changes: dict[str, str], text: str) -> None:
    """The way the settings are watched is named, and the reason when it is the slower one."""
    state = {"mode": "change-stream", "origin": "database", "connected": True, "server": "db"} | changes
    assert text in settings_source(state, TIMES)


def test_copies_in_few_cells() -> None:
    """Good copies need no word, others have one; local comes first; ASCII says the same with words."""
    some = copies(BACKUP, nas="pending", local="verified", app="missing", usb="corrupt")
    assert copies_text(PLAIN, some) == "local✓ nas…pending app✗missing usb✗corrupt"
    assert copies_text(PLAIN, some, brief=True) == "local✓ nas… app✗ usb✗"
    ascii_only = screen(encoding="ascii")[0]
    assert copies_text(ascii_only, some, brief=True) == "local=ok nas=pending app=missing usb=corrupt"
    assert copies_text(PLAIN, []) == "none"


def test_the_table_of_backups() -> None:
    """Each backup is one line with the columns that the documentation promises."""
    lines = backups_table(PLAIN, backups(), TIMES)
    assert lines[0].split() == ["BACKUP", "WHEN", "KIND", "SIZE", "DOCS", "STATE", "COPIES"]
    fulls = backups_table(PLAIN, backups()[:3], TIMES)
    assert fulls[0].split() == ["BACKUP", "WHEN", "SIZE", "DOCS", "STATE", "COPIES"]
    cells = f"{BACKUP}  2026-11-21 02:00 KST, 3 h ago     full    160 MB  12,345  verified  local✓ app✓ nas✓"
    assert lines[1] == cells
    assert lines[4].split()[-4:] == ["MB", "-", "legacy", "local✓"]


def test_a_backup_of_one_collection_is_listed_as_such() -> None:
    """The kind names the collection where there is room for it."""
    only = backup(id="nanumpay-collection-x", kind="collection", collection="nanumpay.users", start="", end="")
    assert "  collection nanumpay.users  " in backups_table(PLAIN, [only, *backups()], TIMES)[1]


def test_the_table_of_slices() -> None:
    """A slice shows its kind and from when to when it leads, a full beside it of which moment it is."""
    lines = backups_table(PLAIN, [*slices(), backup(), backup(kind="legacy", start="", end="")], TIMES)
    assert lines[0].split() == ["BACKUP", "WHEN", "KIND", "COVERS", "SIZE", "DOCS", "STATE", "COPIES"]
    assert "incremental  2026-11-21 04:00:00 … 05:00:00 KST  12.3 kB       -  verified" in lines[1]
    assert "full         as of 2026-11-21 02:00:00 KST  " in lines[4]
    assert "legacy       -  " in lines[5]
    night = slice_backup(4, start=oplog_time(7, hours=6))
    assert covered(night, TIMES) == "2026-11-20 23:00:00 … 2026-11-21 01:00:00 KST"
    autumn = slice_backup(0, start="1792889940:1", end="1792893660:1")
    assert covered(autumn, Times("Europe/Berlin", "2026-11-20T20:00:00Z")) == (
        "2026-10-25 02:59:00 CEST … 03:01:00 CET"
    )


def test_what_is_pinned_says_so() -> None:
    """What retention must leave alone is marked in the table, with the reason in the details."""
    pinned = backup(pinned="a newer one is corrupt")
    assert "  verified pinned  " in backups_table(PLAIN, [pinned, backup()], TIMES)[1]
    assert "pinned" not in backups_table(PLAIN, [pinned, backup()], TIMES)[2]
    assert "  pinned     retention leaves it alone: a newer one is corrupt" in backup_lines(PLAIN, pinned, TIMES)
    assert "pinned" not in "\n".join(backup_lines(PLAIN, backup(), TIMES))


@pytest.mark.parametrize("columns", [80, 100, 120, 160])
def test_tables_fit_usual_terminals(columns: int) -> None:
    """No usual table wraps on a terminal of 80 columns or more."""
    shown = screen(columns)[0]
    runs = [run(), run(outcome="failed", error=UPLOAD_FAULT), run(ended=None, outcome=None, backup=None)]
    tables = [backups_table(shown, backups(), TIMES), runs_table(shown, runs, TIMES), jobs_table(shown, [job()], TIMES)]
    tables.append(backups_table(shown, [*slices(), backup(pinned="why")], TIMES))
    assert max(len(line) for table in tables for line in table) <= columns


def test_the_table_of_runs() -> None:
    """What came of a run is its backup, its fault, or the stage it is in."""
    runs = [run(), run(outcome="failed", error=UPLOAD_FAULT), run(ended=None, outcome=None, backup=None)]
    lines = runs_table(PLAIN, runs, TIMES)
    assert lines[1].endswith(f"succeeded  5.0 s  {BACKUP}")
    assert lines[2].endswith("(530 Login incorrect) (destination-login)")
    assert lines[3].endswith("running        -  in stage retention")
    idle = run(action="slice", backup=None, stages=[stage("capture", 0, 0.1, "nothing new")])
    assert runs_table(PLAIN, [idle], TIMES)[1].split("  ")[-4:] == [
        "schedule, slice",
        "succeeded",
        "5.0 s",
        "nothing new",
    ]


def test_the_table_of_jobs() -> None:
    """A job shows its schedule in words, also when it is off or only run by hand."""
    off = job(name="shop", enabled=False, next_run=None, last_run=None, destinations=[])
    lines = jobs_table(PLAIN, [job(), off], TIMES)
    assert lines[1].startswith("nanumpay  daily at 02:00 KST  2026-11-22 02:00 KST, in 21 h  succeeded 3 h ago")
    assert lines[2].split() == ["shop", "disabled", "-", "never", "7", "1.12", "GB", "none"]


def test_what_goes_stands_last_in_a_prune() -> None:
    """Deletions stand together at the end, next to the summary, and before them what should go and is locked."""
    lines = [
        {"backup": name, "destination": "local", "action": action, "reason": "why", "size": 1}
        for name, action in (("a", "delete"), ("l", "locked"), ("b", "keep"), ("c", "delete"), ("d", "keep"))
    ]
    assert [line[0] for line in prune_table(PLAIN, lines)[1:]] == ["b", "d", "l", "a", "c"]


def test_each_place_has_its_rule_in_the_status() -> None:
    """One rule for all is said in a line; several are said by place; what is locked is a row of its own."""
    windows = {"rule": "all of 7 days, then one a day for 16 days", "count": None, "days": None}
    places = [retention("local"), retention("app", **windows), retention("nas")]
    lines = "\n".join(status_lines(PLAIN, status(jobs=[job(retention=places)])))
    assert (
        "  kept       7 backups, 1.12 GB\n"
        "             local, nas: keeps 7, at most 30 days\n"
        "             app: keeps all of 7 days, then one a day for 16 days\n"
    ) in lines
    held = {"locked": 3, "locked_bytes": 10**9, "locked_first": "2026-12-24T05:00:00Z"}
    for last, words in (
        ("2026-12-24T05:00:00Z", "until 2026-12-24 14:00 KST"),
        ("2026-12-31T05:00:00Z", "until 2026-12-24 14:00 KST to 2026-12-31 14:00 KST"),
    ):
        shown = status_lines(PLAIN, status(jobs=[job(retention=[retention("app", **held, locked_last=last)])]))
        told = next(line for line in shown if line.strip().startswith("locked"))
        assert told.split(maxsplit=1)[1] == f"3 copies (1.00 GB) at app should be gone and are locked {words}"


def test_a_locked_copy_says_until_when() -> None:
    """In the details of a backup, below the table of its copies."""
    held = [one | {"lock": None} for one in backup()["copies"]]
    held[1] |= {"lock": {"until": "2026-12-24T05:00:00Z", "asked": "2026-11-21T05:00:00Z"}}
    held[2] |= {"lock": {"until": None, "asked": "2026-11-21T05:00:00Z"}}
    lines = backup_lines(PLAIN, backup(copies=held), TIMES)
    assert f"  {held[1]['destination']}: should be gone, but is locked there until 2026-12-24 14:00 KST" in lines
    assert f"  {held[2]['destination']}: should be gone, but is locked there until somebody lifts it" in lines


def test_many_slices_of_which_the_same_is_said_are_one_line_of_a_prune() -> None:
    """A line that stands for several says how many, and of which job."""
    line = {"backup": "shop-slice-a-slice-2026-11-21T02-05-00", "destination": "local", "action": "delete"}
    (gone,) = prune_table(PLAIN, [line | {"reason": "why", "size": 4_000_000, "slices": 4}])[1:]
    assert gone.split() == "4 slices of shop-slice-a local delete 4.00 MB why".split()


def test_checks() -> None:
    """A check that is not ok is marked, followed by what to do, and counted; what is advised follows what is ok."""
    checks = [
        {"name": "tools", "state": "ok", "message": "fine", "hint": "finer with wind"},
        {"name": "clock", "state": "warning", "message": "late", "hint": "wind it up"},
        {"name": "nas", "state": "failed", "message": "gone", "hint": ""},
    ]
    assert checks_lines(PLAIN, checks) == [
        "✓ tools  fine",
        "         → finer with wind",
        "! clock  late",
        "         → wind it up",
        "✗ nas    gone",
        "3 checks: 1 failed, 1 warning",
    ]


def test_settings_as_an_outline() -> None:
    """Nested settings are indented, and what is empty says so."""
    settings = {
        "jobs": [{"name": "a", "on": True, "cron": ["x", "y"]}, {"name": "", "dest": {"port": 21}}],
        "none": [],
        "plain": [1, None],
    }
    assert tree_lines(settings) == [
        "jobs:",
        "  - name: a",
        "    on: yes",
        "    cron: x, y",
        "  - name: not set",
        "    dest:",
        "      port: 21",
        "none: none",
        "plain: 1, not set",
    ]


def test_a_backup_in_detail() -> None:
    """The details say how far the backup was proven, and end with the commands that restore it by hand."""
    lines = backup_lines(PLAIN, backup(manifest=manifest()), TIMES)
    text = "\n".join(lines)
    assert "verified (read back and compared with what was dumped)" in text
    assert "12,345 documents in 3 collections of nanumpay, 1.17 GB before compression (gzip)" in text
    assert "2026-11-21 02:00 KST, structure, passed in 1.1 s" in text
    assert lines[-2:] == [
        f"  tar -xzf {BACKUP}.tar.gz",
        f"  mongorestore --uri=URI --db=nanumpay --drop ./{BACKUP}/nanumpay",
    ]


def test_a_backup_without_manifest() -> None:
    """A legacy backup has no manifest, a plain tar is unpacked as one, and a copy's fault is told with its next try."""
    old = backup("old-backup", state="legacy", kind="legacy", artifact="old-backup.tar", run=None)
    old["copies"] = copies("old-backup", local="missing", nas="pending")
    text = "\n".join(backup_lines(PLAIN, old, TIMES))
    assert "made by the old program" in text
    assert "nas: tried 2 times, next try 2026-11-21 05:03 KST, in 3 min" in text
    assert "(code destination-login)" in text
    assert "tar -xf old-backup.tar\n  mongorestore --uri=URI --db=nanumpay --drop ./old-backup/nanumpay" in text
    assert "  none\n" in "\n".join(backup_lines(PLAIN, backup(copies=[]), TIMES))


def test_a_full_of_one_moment_by_hand() -> None:
    """A full with an oplog of its own is restored with it; what a lesser user can do is told as well."""
    shown = manifest()
    shown["consistency"] = {"level": "point-in-time", "moment": moment(hours=3), "entries": 14}
    lines = backup_lines(PLAIN, backup(manifest=shown), TIMES)
    assert lines[-4:] == [
        f"  tar -xzf {BACKUP}.tar.gz",
        f"  mongorestore --uri=URI --oplogReplay --drop ./{BACKUP}",
        "  # or, by a user who may not replay (the collections are of slightly different moments then):",
        f"  mongorestore --uri=URI --db=nanumpay --drop ./{BACKUP}/nanumpay",
    ]


def test_a_slice_in_detail() -> None:
    """The details of a slice say what it covers and follows, how to look into it, and how to restore its end."""
    newest = slices()[0] | {"manifest": slice_manifest()}
    lines = backup_lines(PLAIN, newest, TIMES, [*slices(), *backups()])
    text = "\n".join(lines)
    assert "  holds        12 oplog entries of nanumpay, 34.6 kB before compression (zstd)" in lines
    assert "  covers       2026-11-21 04:00:00 … 05:00:00 KST (oplog times 1795201200:7 to 1795204800:7)" in lines
    assert f"  follows      {slices()[1]['id']}\n  chain        {BACKUP}" in text
    assert "document" not in text
    place = lines.index("Look into it by hand")
    named = " ".join(f"slices/{one['artifact']}" for one in reversed(slices()))
    assert lines[place:] == [
        "Look into it by hand",
        f"  zstd -dc slices/{SLICE}.bson.zst > oplog.bson",
        "  bsondump oplog.bson | head",
        "",
        "Restore its end by hand",
        f"  tar -xzf {BACKUP}.tar.gz",
        f"  zstd -dc {named} >> {BACKUP}/oplog.bson",
        f"  mongorestore --uri=URI --oplogReplay --oplogLimit=1795204800:8 --drop ./{BACKUP}",
    ]


@pytest.mark.parametrize(
    "gone,text",
    [
        (BACKUP, "its full is not here any more; what can be restored: backupctl timeline nanumpay"),
        (
            slices()[1]["id"],
            "slices before it are not here any more; what can be restored: backupctl timeline nanumpay",
        ),
    ],
)
def test_a_slice_whose_chain_is_gone(gone: str, text: str) -> None:
    """Where something of the chain is missing no commands are shown that would restore something else."""
    others = [one for one in [*slices(), *backups()] if one["id"] != gone]
    lines = backup_lines(PLAIN, slices()[0] | {"manifest": slice_manifest()}, TIMES, others)
    assert lines[-1].strip() == text
    assert "mongorestore" not in "\n".join(lines)


def test_a_corrupt_backup_is_not_recommended() -> None:
    """What failed its verification says that nobody should rely on it."""
    bad = manifest()
    bad["verification"][0] |= {"ok": False, "detail": "2 documents are missing"}
    text = "\n".join(backup_lines(PLAIN, backup(state="corrupt", manifest=bad), TIMES))
    assert "do not rely on it" in text
    assert "structure, FAILED in 1.1 s: 2 documents are missing" in text


def test_a_run_in_detail() -> None:
    """The details of a run list its stages, its fault with the hint, its warnings, and where the log is."""
    failed = run(outcome="failed", error=UPLOAD_FAULT, warnings=["w1"], backup=None)
    failed["stages"] = [stage("preflight", 0, 0.2), stage("dump", 0.2, 1, "died", "failed"), stage("publish", 2, None)]
    lines = run_lines(PLAIN, failed, TIMES)
    assert lines[1:8] == [
        "  job       nanumpay (trigger: schedule)",
        "  started   2026-11-21 02:00:00 KST, 3 h ago",
        "  outcome   failed after 5.0 s",
        f"  error     {UPLOAD_FAULT['message']} (code destination-login)",
        f"            → {UPLOAD_FAULT['hint']}",
        "  warning   w1",
        "",
    ]
    assert lines[10].split() == ["dump", "failed", "1.0", "s", "died"]
    assert lines[11].split()[:2] == ["publish", "running"]
    assert lines[-1] == f"Its log: backupctl logs {failed['id']}"
    drill = run_lines(PLAIN, run(action="drill"), TIMES)
    assert drill[1] == "  job       nanumpay (trigger: schedule, a drill)"
