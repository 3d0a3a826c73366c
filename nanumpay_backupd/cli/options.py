"""The command line: commands, options, their help with examples, and help for mistyped ones. Nothing is done here."""

from __future__ import annotations

import argparse
import os
import re

from nanumpay_backupd.errors import UsageError

TYPE_CHECKING = False  # importing typing costs more than it gives here
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Argument = tuple[str, dict[str, Any]]

__all__ = ["COMMANDS", "DEFAULT_SOCKET", "PROGRAMS", "ROLES", "SCOPES", "SHELLS", "build_parser", "parse"]

_COMMON = ("--socket", "--json", "--color", "--help", "--version")
DEFAULT_SOCKET = "/run/nanumpay-backupd/control.sock"
SHELLS = ("bash", "zsh", "fish")
USER_VERBS = ("add", "list", "password", "remove")
FLEET_VERBS = ("take", "hand-over", "forget")
TOKEN_VERBS = ("create", "list", "revoke")
ROLES = ("viewer", "operator", "admin")
SCOPES = ("read", "run", "download", "settings")
PROGRAMS = ("backupctl", "nanumpay-backupd")

_EPILOG = """\
examples:
  backupctl status                      how things stand, and what to do about what is wrong
  backupctl doctor                      try everything that a backup needs
  backupctl run                         make a backup now and watch it
  backupctl list                        the backups and where their copies are
  backupctl timeline                    which moments can be restored
  backupctl restore latest --dry-run    what a restore would do; without --dry-run it asks and does it
  backupctl show latest                 one backup in detail, with the commands to restore it by hand
  backupctl logs -f                     follow the daemon's log

Where no daemon runs (a new machine, a lost host): nanumpay-backupd restore --from PLACE

`backupctl COMMAND --help` explains one command with examples; `man backupctl` has all of it.

exit codes:
  0 ok   1 failed   2 usage   3 degraded (a good local copy, a destination failed)
  4 daemon unreachable   5 busy   6 not found   7 refused   8 unhealthy   130 interrupted
"""


def _flag(flag: str, text: str, dest: str | None = None) -> Argument:
    return flag, {"action": "store_true", "help": text, **({"dest": dest} if dest else {})}


def _word(name: str, metavar: str, text: str) -> Argument:
    return name, {"metavar": metavar, "help": text}


def _maybe(name: str, metavar: str, text: str) -> Argument:
    return name, {"nargs": "?", "metavar": metavar, "help": text}


def _newest(text: str) -> Argument:
    return "-n", {"type": "count", "metavar": "N", "dest": "limit", "help": text}


_SWAPS = "undo: what was there before is live again; redo: what was restored; drop: delete what is kept"
_YES = _flag("--yes", "do not ask")
_FROM = ("--from", {"metavar": "DEST", "dest": "source", "help": "take the copy at this destination"})
_NO_WAIT = _flag("--no-wait", "start it and return at once")
_JOB = ("--job", {"metavar": "JOB", "help": "name of a job (default: the only one, or the application's)"})


def _one_of(flag: str, words: str, text: str) -> Argument:
    """Make an option that takes one of several words, the first of which is its default."""
    choices = tuple(words.split())
    return flag, {"metavar": flag.lstrip("-").upper(), "choices": choices, "help": f"{text}: {', '.join(choices)}"}


# name -> (what it does, arguments, examples and remarks). The first example is the plain one.
COMMANDS: dict[str, tuple[str, tuple[Argument, ...], str]] = {
    "status": (
        "show health, jobs, next and last runs, copies, disk",
        (_flag("--watch", "keep showing it until Ctrl-C; with --json one line per change"),),
        """\
  backupctl status
  backupctl status --watch
  backupctl status --json | jq -r .health

Each problem comes with what to do about it. The names of backups are in UTC, times in the zone of the schedule.
The exit code is 0 when health is ok or warning, 8 when it is failing.""",
    ),
    "jobs": ("list the jobs", (), "  backupctl jobs\n  backupctl jobs --json | jq -r '.jobs[].next_run'"),
    "run": (
        "make a backup now and watch it",
        (
            _maybe("job", "JOB", "name of a job, or of a group (default: the only job, or the application's)"),
            _NO_WAIT,
            _flag("--force", "run although the job is disabled"),
            ("--collection", {"metavar": "C", "help": "only this collection (DB.C where a job has all databases)"}),
            (
                "--format",
                {
                    "metavar": "FORMAT",
                    "choices": ("bson", "json"),
                    "help": "of a collection: bson (default), or json: Extended JSON, a document a line",
                },
            ),
            _one_of("--kind", "full incremental differential", "the kind of backup (default: full)"),
            _flag("--disable-notifications", "tell nobody how it ends: no messages, no pings (it stays on record)"),
            (
                "--only-to",
                {
                    "metavar": "DEST",
                    "action": "append",
                    "help": "copies to this destination only, this once; several with commas; local: none elsewhere",
                },
            ),
            _flag("--only-db", "only what saves a database: of a group, or without JOB of all enabled jobs"),
            _flag("--only-files", "only what saves files: of a group, or without JOB of all enabled jobs"),
        ),
        """\
  backupctl run
  backupctl run nanumpay --no-wait
  backupctl run --kind incremental
  backupctl run --force --json
  backupctl run --collection users
  backupctl run nanumpay --collection users --format json
  backupctl run --disable-notifications
  backupctl run nanumpay --only-to nas,offsite
  backupctl run nanumpay --only-to local
  backupctl run --only-db

With --only-to the backup is kept here as always. The other destinations do not get it, also not later by themselves,
and nobody misses it there; backupctl list and show say so. The next run goes everywhere again.
With --only-db or --only-files and no JOB one job after the other runs; the exit code is that of the worst.
Of a group all jobs are made, and what they made belongs together: backupctl restore GROUP latest. With --only-db or
--only-files only some of them are, and no group is made of it.

A backup of one collection is listed and restored like others, and never counts as the job's newest backup.

An incremental saves the changes since the last slice, a differential those since the last full (replica set).
Ctrl-C only stops watching: the run goes on in the daemon.
The exit code is 0 succeeded, 3 degraded, 1 failed, 5 already running, 130 cancelled or no longer watched.""",
    ),
    "cancel": (
        "stop what is running: a backup, a restore, a verification, a drill",
        (_maybe("run", "RUN", "id of a run, or name of its job (default: the one that is running)"),),
        """\
  backupctl cancel
  backupctl cancel 20261121-210701-2bc3

It ends at its next step, by force after 30 seconds. Published backups stay. The id is in backupctl status.""",
    ),
    "wait": (
        "wait until no backup, upload or restore is running",
        (
            ("--timeout", {"metavar": "DURATION", "type": "duration", "help": "at most so long: 30s, 10m, 2h"}),
            _flag("--restores", "wait for restores only"),
        ),
        """\
  backupctl wait
  backupctl wait --timeout 10m
  backupctl wait --restores --timeout 0s

Slices, verifications and drills are not waited for: they lose nothing when they are cut off. What becomes due
meanwhile is begun as usual.
The exit code is 0 when nothing is running, 5 when something still is after that time.""",
    ),
    "runs": (
        "list past and present runs, newest first",
        (
            _maybe("job", "JOB", "name of a job (default: all)"),
            _newest("show only the newest N"),
            _flag("--slices", "also those that only saved changes"),
            _flag("--fleet", "those of all hosts of the fleet, as they told MongoDB"),
        ),
        "  backupctl runs\n  backupctl runs nanumpay -n 5\n  backupctl runs --slices\n  backupctl runs --fleet",
    ),
    "list": (
        "list backups and where their copies are, newest first",
        (
            _maybe("job", "JOB", "name of a job, or of a group (default: all)"),
            _newest("show only the newest N"),
            _flag("--slices", "also the slices of changes, with what each covers"),
        ),
        """\
  backupctl list
  backupctl list -n 3
  backupctl list nanumpay --slices
  backupctl list --json | jq -r '.backups[0].artifact'

STATE is verified (read back and compared), committed (whole, not read back yet), corrupt (read back, and not what was
dumped) or legacy (of the old program, nothing to compare with). What is pinned stays; backupctl show says why.""",
    ),
    "show": (
        "show a backup, a run or a group's backup in detail",
        (_word("id", "BACKUP|RUN", "id of a backup, of a run or of what a group made, or: latest"),),
        """\
  backupctl show latest
  backupctl show nanumpay-backup-2026-11-21T02-00-00
  backupctl show 20261121-210701-2bc3

Of a backup: its copies, proofs and moment, and the commands to restore it without this software. Of a run: its stages,
and what went wrong.""",
    ),
    "ls": (
        "list the files that a backup holds",
        (
            _word("backup", "BACKUP", "id of a backup of files, or latest: the newest full of files"),
            _maybe("path", "PATH", "a whole path in it (default: its first level)"),
            _flag("--recursive", "with all that is below"),
        ),
        """\
  backupctl ls latest
  backupctl ls app-files-backup-2026-11-21T02-00-00 /srv/app/public
  backupctl ls latest --recursive --json | jq -r '.entries[].path'

An increment is listed as the whole tree at its moment, together with the backups before it. The first listing of a
backup reads it (where this host has no copy, at a destination); what it holds is then remembered.""",
    ),
    "timeline": (
        "show which moments can be restored, and which cannot",
        (_maybe("job", "JOB", "name of a job (default: the only one, or the application's)"),),
        """\
  backupctl timeline
  backupctl timeline nanumpay --json | jq -r '.ranges[-1].last'

Any moment of a range can be restored to the second: backupctl restore latest --at TIME""",
    ),
    "restore": (
        "bring a backup back to where it came from, or to another place",
        (
            _word("backup", "BACKUP|latest", "id of a backup, or latest: the newest, with --at the one that fits"),
            (
                "which",
                {"nargs": "?", "metavar": "latest", "choices": ("latest",), "help": "of the group that is named"},
            ),
            ("--at", {"metavar": "TIME", "help": "as of this moment (see below)"}),
            ("--job", {"metavar": "JOB", "help": "with --at: name of a job (default: as for run)"}),
            _flag("--swap", "restore beside the database, check, then change places; keeps what was there"),
            ("--to-db", {"metavar": "NAME", "help": "into this database instead of its own"}),
            ("--to", {"metavar": "PLACE", "dest": "to_db", "help": "to this place (folder, file, database)"}),
            ("--collection", {"metavar": "C", "help": "only this collection"}),
            (
                "--only",
                {"metavar": "PART", "action": "append", "help": "only this part or path; may be repeated"},
            ),
            _flag("--overwrite", "what is there may be replaced (other sources than MongoDB)"),
            _flag("--active-only", "of n8n: only workflows that were active (--option active-only=yes)"),
            ("--option", {"metavar": "KEY=VALUE", "action": "append", "help": "what the source knows besides"}),
            _FROM,
            _flag("--only-db", "of a group: only what is of a database"),
            _flag("--only-files", "of a group: only what is of files"),
            _flag("--partial", "of a group: what there is, although not everything can be restored"),
            _flag("--dry-run", "only show what would be done"),
            _flag("--no-safety-backup", "do not back up first what is going to be replaced"),
            _YES,
        ),
        """\
  backupctl restore latest --dry-run
  backupctl restore nanumpay-backup-2026-11-21T02-00-00
  backupctl restore latest --to-db nanumpay_check --yes
  backupctl restore latest --collection users --from nas
  backupctl restore latest --at 10:30:59
  backupctl restore latest --at "yesterday 18:00" --swap
  backupctl restore shop latest --dry-run
  backupctl restore shop-group-2026-11-21T02-00-00 --only-files

Of a group (its id, or its name and latest: the newest that is whole) everything is restored, one job after the other in
the order of the host file. All plans are shown first; where one does not succeed, nothing more is begun.

TIME is a time of day (today's, or yesterday's when it is still to come), a date and a time, with Z or an offset like
+09:00 when it is not one of the daemon's zone, "5 minutes ago" or "5m ago", "yesterday 18:00", an oplog time
(seconds:counter), or latest. The whole second counts. backupctl timeline shows what can be restored.

Stop the application first. It shows what it will do and asks; where nobody can be asked it needs --yes. The copy is
read back whole before anything changes, and what is replaced is backed up before: the last lines say how to go back.
Ctrl-C only stops watching; to stop it: backupctl cancel
Only root, the service's user and the admin group may. Without a daemon: nanumpay-backupd restore --from PLACE
The exit code is 0 succeeded, 1 failed, 7 refused, 130 cancelled or no longer watched.""",
    ),
    "verify": (
        "read copies again and prove them",
        (
            _maybe("backup", "BACKUP|latest", "id of a backup, or latest (default: all of the job's)"),
            _JOB,
            _one_of("--level", "checksum structure restore", "how far (default: checksum)"),
            ("--from", {"metavar": "DEST", "dest": "source", "help": "only the copies at this destination"}),
            _NO_WAIT,
        ),
        """\
  backupctl verify
  backupctl verify latest --level structure
  backupctl verify --job nanumpay --from nas --no-wait

checksum reads every byte, structure also unpacks and walks every document, restore is a drill.
A copy that does not pass is marked corrupt, and a new full is made.
The exit code is 0 all good, 3 not everything could be tried, 1 failed, 5 already running, 130 cancelled.""",
    ),
    "drill": (
        "restore a backup into a scratch place, compare it, and throw it away",
        (
            _maybe("job", "JOB", "name of a job (default: the only one, or the application's)"),
            ("--backup", {"metavar": "BACKUP", "help": "this one (default: the newest that is verified)"}),
            _FROM,
            _NO_WAIT,
        ),
        """\
  backupctl drill
  backupctl drill nanumpay --from nas
  backupctl drill --backup nanumpay-backup-2026-11-21T02-00-00

The application's database is left alone. How long the restore took is kept and compared with the objective rto.
The exit code is 0 the same came back, 3 degraded, 1 failed, 5 already running, 130 cancelled.""",
    ),
    "swaps": (
        "list what restores with --swap keep; undo one, do it again, drop what it keeps",
        (
            ("what", {"nargs": "?", "metavar": "undo|redo|drop", "choices": ("undo", "redo", "drop"), "help": _SWAPS}),
            _maybe("swap", "SWAP", "name of a swap; backupctl swaps lists them"),
            _YES,
        ),
        """\
  backupctl swaps
  backupctl swaps undo 2026-11-21T21-19-40
  backupctl swaps drop 2026-11-21T21-19-40 --yes

An undo makes what was there before the restore live again and keeps what was restored; redo is the way back. Nothing
is deleted before drop. Each asks first; where nobody can be asked it needs --yes.""",
    ),
    "send": (
        "send a backup to destinations that do not have it",
        (
            _word("backup", "BACKUP|latest", "id of a backup, or latest"),
            ("--to", {"metavar": "DESTINATION", "dest": "destination", "help": "only to this one (default: to all)"}),
        ),
        """\
  backupctl send latest
  backupctl send nanumpay-backup-2026-11-21T02-00-00 --to nas

For what was made with run --only-to, for a destination that is new, and for a copy that was lost there. It is queued
and sent as any other copy that waits; retention then judges it there by its age.
The exit code is 0 queued (or nothing to send), 6 no such backup or destination, 7 refused: it is not verified.""",
    ),
    "sync": (
        "send what destinations lack of what they should have",
        (
            _maybe("destination", "DESTINATION", "only to this one (default: to all)"),
            ("--job", {"metavar": "JOB", "help": "only of this job (default: of all)"}),
        ),
        """\
  backupctl sync
  backupctl sync nas
  backupctl sync offsite --job nanumpay

For a destination that was down for long, that is new, or that lost something. Everything that retention would keep
there and that is not there is queued, oldest first, also what is corrupt there. What is not in the backups folder any
more is brought from another destination.
The exit code is 0 queued (or nothing to send), 1 of something no file is left anywhere, 6 no such destination.""",
    ),
    "copies": (
        "show where the copies of a backup are and what is known of each",
        (_word("backup", "BACKUP|latest", "id of a backup, or latest"),),
        """\
  backupctl copies latest
  backupctl copies nanumpay-backup-2026-11-21T02-00-00 --json

Where each copy is, how and when it was last proven, whether that is off-site, and how it is encrypted.
The exit code is 0, or 6: no such backup.""",
    ),
    "copy": (
        "make one more copy of a backup, move one, or encrypt one anew",
        (
            _word("backup", "BACKUP|latest", "id of a backup, or latest"),
            _word("destination", "DESTINATION", "one of its job"),
            _FROM,
            _flag("--move", "delete the copy named by --from once the new one is proven"),
            _NO_WAIT,
        ),
        """\
  backupctl copy latest offsite
  backupctl copy nanumpay-backup-2026-11-21T02-00-00 offsite --from nas
  backupctl copy nanumpay-backup-2026-11-21T02-00-00 offsite --from nas --move

The new copy is read back before anything else goes. Where the job encrypts to other keys by now, it is encrypted anew,
if there is a key here to open it; for a destination that has the backup already, that is all it does.
The exit code is 0 it is there, 1 failed (nothing was deleted), 3 the old one could not be deleted, 5 busy.""",
    ),
    "delete": (
        "delete a backup with all its copies, or one copy",
        (
            _word("backup", "BACKUP", "id of a backup"),
            ("--from", {"metavar": "DEST", "dest": "destination", "help": "only the copy at this destination"}),
            _flag("--force", "even if it is pinned, or the newest verified backup"),
            _YES,
        ),
        """\
  backupctl delete nanumpay-backup-2026-11-21T02-00-00
  backupctl delete nanumpay-backup-2026-11-21T02-00-00 --from nas --yes

It asks first; where nobody can be asked it needs --yes. The newest verified backup of a job is refused without --force.
The exit code is 0 deleted, 1 a destination failed, 6 no such backup, 7 refused.""",
    ),
    "prune": (
        "show what retention would delete; delete it with --apply",
        (
            _maybe("job", "JOB", "name of a job (default: all)"),
            _flag("--apply", "delete, not only show"),
            ("--at", {"metavar": "DATE", "help": "show what would be deleted on that day (see below)"}),
            _flag("--assume-schedule", "with --at: as if all scheduled backups until then had been made"),
            _YES,
        ),
        """\
  backupctl prune
  backupctl prune --apply
  backupctl prune --at 2027-03-01
  backupctl prune nanumpay --at "in 90 days" --assume-schedule

The newest verified backup is never deleted, nor one that is pinned. --apply asks first; where nobody can be asked it
needs --yes. DATE is a day (its first moment), a date and a time, or "in 30 days" (also hours, weeks). --at assumes that
nothing is made or deleted until then; with --assume-schedule, that each backup comes when it is due, as large as the
newest one. Nothing is deleted with --at.""",
    ),
    "pin": (
        "keep retention from deleting a backup",
        (
            _word("backup", "BACKUP|latest", "id of a backup, or latest"),
            ("--reason", {"metavar": "TEXT", "help": "why; it is shown wherever the backup is"}),
        ),
        """\
  backupctl pin nanumpay-backup-2026-11-21T02-00-00 --reason "before the move"

It stays until backupctl unpin. A slice that is pinned keeps what restores its end. The application's own clean-up of
the backups folder knows nothing of this: a copy elsewhere is what stays for certain.""",
    ),
    "unpin": (
        "let retention delete a backup again",
        (
            _word("backup", "BACKUP|latest", "id of a backup, or latest"),
            _flag("--all", "also what the daemon pinned because a newer backup is damaged or odd"),
        ),
        """\
  backupctl unpin nanumpay-backup-2026-11-21T02-00-00

What the daemon pinned it lets go by itself, once all is well; what is odd can be accepted: backupctl monitor.""",
    ),
    "settings": (
        "show the settings in force and where they come from",
        (),
        "  backupctl settings\n  backupctl settings --json",
    ),
    "doctor": (
        "check MongoDB, tools, disk, destinations, clock, permissions",
        (),
        """\
  backupctl doctor

Each destination is tried with a real put, get and delete. What failed comes with what to do about it.
The exit code is 8 when a check failed, 0 otherwise.""",
    ),
    "monitor": (
        "check every place: reachable, age, size, content, room, what ends",
        (
            _maybe("job", "JOB", "only this job (default: all)"),
            _flag("--last", "do not look now: what the last look saw counts"),
            ("--accept", {"metavar": "BACKUP", "help": "what is odd about this backup is meant"}),
        ),
        """\
  backupctl monitor
  backupctl monitor nanumpay --last
  backupctl monitor --json | jq -r '.checks[] | select(.state != "ok") | .message'
  backupctl monitor --accept nanumpay-backup-2026-11-21T02-00-00

What is wrong comes first, each with what to do about it; then a row for each place. All places are looked at side by
side, for 25 seconds at most; nothing is written there. The daemon looks by itself once a day and tells what it finds.
A backup is odd when it holds far less (or more) than those before it, or lacks a collection; the last one that is not
odd is pinned until a later one is as usual again, or until --accept.
The exit code is 8 when a check failed, 0 otherwise: warnings are no failure.""",
    ),
    "test": (
        "try a destination with a real put, get and delete",
        (_word("destination", "DESTINATION", "name of a destination; backupctl jobs lists them"),),
        "  backupctl test app\n\nThe exit code is 8 when a check failed, 0 otherwise.",
    ),
    "notify": (
        "show who is told of what, and what was told; send a test",
        (
            ("what", {"nargs": "?", "metavar": "test", "choices": ("test",), "help": "send a test"}),
            _maybe("channel", "CHANNEL", "with test: by this channel only (default: by all)"),
            _newest("show the newest N (default: 20)"),
        ),
        """\
  backupctl notify
  backupctl notify -n 50
  backupctl notify test
  backupctl notify test ops-mail

A test is a real message; of a heartbeat it is a ping that counts for nothing (/log).
The exit code is 8 when a test did not arrive, 6 when there is nobody to send it to, 0 otherwise.""",
    ),
    "report": (
        "show the last days: runs, sizes, growth, promises kept, copies, what comes next",
        (
            ("--days", {"type": "count", "metavar": "N", "help": "how many days (default: 7)"}),
            ("--html", {"metavar": "FILE", "help": "write it to this file, as a page with a chart"}),
            _one_of("--language", "en ko", "its language (default: as [notify] says)"),
        ),
        """\
  backupctl report
  backupctl report --days 30 --language ko
  backupctl report --html /tmp/report.html
  backupctl report --json | jq .report.jobs

The same is sent by itself, weekly or as [notify] report says, to the channels that ask for the event report.""",
    ),
    "logs": (
        "show the daemon's log (journalctl)",
        (
            _maybe("run", "RUN", "only this run"),
            _flag("-f", "go on showing new lines", "follow"),
            _newest("the last N lines (default: 50; all of a run)"),
        ),
        """\
  backupctl logs
  backupctl logs -f
  backupctl logs -n 200
  backupctl logs 20261121-210701-2bc3

It is journalctl -u nanumpay-backupd, with RUN_ID=… for a run: what else journalctl can do, it can do with these lines.
A daemon that is not run by systemd logs to where it was started.""",
    ),
    "reload": (
        "let the daemon read its host file again",
        (),
        """\
  backupctl reload

A file with a mistake is refused, and the running configuration stays. Try it before: nanumpay-backupd check-config
The exit code is 0 reloaded, 1 refused.""",
    ),
    "rebuild": (
        "rebuild the catalog from the manifests",
        (),
        """\
  backupctl rebuild

For when the catalog was lost, after a move to a new machine, or when list misses backups that are there. It reads the
manifests in the backups folder and at the destinations, and changes no backup. It is refused while a run is going.""",
    ),
    "fleet": (
        "show which host makes the jobs that all share, or change it",
        (
            (
                "verb",
                {"nargs": "?", "choices": FLEET_VERBS, "metavar": "VERB", "help": "take, hand-over or forget"},
            ),
            _maybe("name", "HOST", "to whom it is handed over (default: any other), or who is forgotten"),
        ),
        """\
  backupctl fleet
  backupctl fleet take               this host makes them from now on
  backupctl fleet hand-over db2      on the host that makes them: db2 does from now on
  backupctl fleet forget db3         db3 is gone for good

Runs that are active come to their end first. Where no other host wants the lease it comes back after a while.
docs/fleet.md has how it is set up and what is promised.""",
    ),
    "web-user": (
        "add, list and remove who may use the web page without being an administrator of the application",
        (
            ("verb", {"metavar": "VERB", "choices": USER_VERBS, "help": f"one of: {', '.join(USER_VERBS)}"}),
            _maybe("name", "NAME", "the user's name"),
            ("--role", {"metavar": "ROLE", "choices": ROLES, "help": f"what they may do: {', '.join(ROLES)}"}),
            ("--config", {"metavar": "FILE", "help": "the host file"}),
        ),
        """\
  backupctl web-user add kim                 asks for the password; kim may do everything
  backupctl web-user add lee --role viewer   lee may look
  backupctl web-user password kim            another password; kim's sessions end
  backupctl web-user list
  backupctl web-user remove kim

viewer looks; operator also starts runs, tests and downloads; admin also saves settings, restores and deletes.
Without a terminal the password is the first line of standard input. No daemon is needed.""",
    ),
    "token": (
        "make, list and revoke keys for programs that use the web page's interface",
        (
            ("verb", {"metavar": "VERB", "choices": TOKEN_VERBS, "help": f"one of: {', '.join(TOKEN_VERBS)}"}),
            _maybe("name", "NAME", "the token's name"),
            (
                "--scope",
                {
                    "metavar": "SCOPE",
                    "action": "append",
                    "choices": SCOPES,
                    "help": f"what it may, can be given several times: {', '.join(SCOPES)}",
                },
            ),
            ("--days", {"type": "count", "metavar": "N", "help": "it ends after so many days"}),
            ("--config", {"metavar": "FILE", "help": "the host file"}),
        ),
        """\
  backupctl token create app --scope run --scope download
  backupctl token list
  backupctl token revoke app

The token is shown this once; only its digest is kept. None can restore or delete. No daemon is needed.""",
    ),
    "completion": (
        "print the completion script for a shell",
        (
            ("shell", {"metavar": "SHELL", "choices": SHELLS, "help": f"one of: {', '.join(SHELLS)}"}),
            (
                "program",
                {
                    "nargs": "?",
                    "metavar": "PROGRAM",
                    "choices": PROGRAMS,
                    "default": PROGRAMS[0],
                    "help": f"whose: {', '.join(PROGRAMS)} (default: {PROGRAMS[0]})",
                },
            ),
        ),
        """\
  backupctl completion bash > ~/.local/share/bash-completion/completions/backupctl
  backupctl completion zsh > ~/.zfunc/_backupctl
  backupctl completion fish > ~/.config/fish/completions/backupctl.fish
  backupctl completion bash nanumpay-backupd > ~/.local/share/bash-completion/completions/nanumpay-backupd

The Debian package has installed them; this is for pip and pipx. For the present bash alone:
source <(backupctl completion bash). For zsh the folder must be in fpath before compinit is called.
No daemon is needed.""",
    ),
}


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as they are written, explanations on the line of what they explain, and paths whole."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=18, width=100)

    def _split_lines(self, text: str, width: int) -> list[str]:
        from textwrap import wrap  # only a help needs it

        return wrap(text, width, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    """Says a mistake in this program's own way: a sentence, and what was probably meant."""

    def error(self, message: str) -> NoReturn:
        words = re.match(r"argument COMMAND: invalid choice: '([^']*)'", message)
        if words:
            hint = _meant(words[1], list(COMMANDS)) or "all commands: backupctl --help"
            raise UsageError(f"unknown command '{words[1]}'", hint=hint)
        raise UsageError(message, hint=f"see: {self.prog} --help")


def _meant(word: str, known: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else ""


def _count(text: str) -> int:
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")


def _duration(text: str) -> float:
    found = re.fullmatch(r"(\d+)([smh])", text)
    if found:
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]
    raise argparse.ArgumentTypeError(f"'{text}' is not a length of time such as 30s, 10m, 2h")


def _common(parser: argparse.ArgumentParser, *, top: bool) -> argparse._ArgumentGroup:
    """Add the options that may stand before or after the command; only the top one sets their defaults."""

    def default(value: object) -> Any:
        return value if top else argparse.SUPPRESS

    group = parser.add_argument_group("options" if top else "common options")
    group.add_argument("-h", "--help", action="help", help="show this help")
    socket = os.environ.get("NANUMPAY_BACKUPD_SOCKET") or DEFAULT_SOCKET
    group.add_argument(
        "--socket",
        metavar="PATH",
        default=default(socket),
        help=f"the daemon's control socket (default: $NANUMPAY_BACKUPD_SOCKET or {DEFAULT_SOCKET})",
    )
    group.add_argument(
        "--json", action="store_true", default=default(value=False), help="print what the daemon answered as JSON"
    )
    group.add_argument(
        "--color",
        metavar="WHEN",
        choices=("auto", "always", "never"),
        default=default("auto"),
        help="auto, always or never (default: auto, which honours NO_COLOR)",
    )
    return group


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line; `parse` adds what argparse cannot check."""
    parser = _Parser(
        prog="backupctl",
        description="Look at and steer nanumpay-backupd, the backup daemon of this host.",
        epilog=_EPILOG,
        formatter_class=_Help,
        add_help=False,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=_Parser)
    _common(parser, top=True).add_argument("--version", action="store_true", help="show the version and exit")
    for name, (summary, arguments, remarks) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"examples:\n{remarks}",
            formatter_class=_Help,
            add_help=False,
            allow_abbrev=False,
        )
        command.register("type", "count", _count)
        command.register("type", "duration", _duration)
        for flag, options in arguments:
            command.add_argument(flag, **options)
        _common(command, top=False)
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Read a command line; raises UsageError when it makes no sense. Asking for help prints it and exits."""
    args, extra = build_parser().parse_known_args(argv)
    if args.version:
        return args
    if extra:
        raise _surplus(extra[0], args.command)
    if args.command is None:
        raise UsageError("a command is missing", hint="try: backupctl status; all commands: backupctl --help")
    if args.command == "prune":
        _check_prune(args)
    if args.command == "run":
        _check_run(args)
    if args.command in {"web-user", "token"} and (args.name is None) != (args.verb == "list"):
        what = "takes no name" if args.name else "needs a name"
        raise UsageError(f"{args.command} {args.verb} {what}", hint=f"see: backupctl {args.command} --help")
    if args.command == "restore" and args.only_db and args.only_files:
        raise UsageError("--only-db and --only-files together are everything", hint="leave both out")
    return args


def _check_run(args: argparse.Namespace) -> None:
    if args.format and not args.collection:
        raise UsageError(
            "--format is for one collection: --collection is missing",
            hint=f"backupctl run --collection NAME --format {args.format}",
        )
    if args.only_db and args.only_files:
        raise UsageError("--only-db and --only-files together are everything", hint="leave one of them out")
    if args.only_files and args.collection:
        raise UsageError("a collection is of a database", hint="leave out --only-files")
    if args.only_db and args.collection and not args.job:
        raise UsageError("a collection is of one job, which is not named", hint="backupctl run JOB --collection NAME")
    if args.only_to is not None:
        args.only_to = [name.strip() for word in args.only_to for name in word.split(",") if name.strip()]


def _check_prune(args: argparse.Namespace) -> None:
    if args.assume_schedule and not args.at:
        raise UsageError(
            "--assume-schedule is for a later day: --at is missing", hint="add for example --at 2027-03-01"
        )
    if args.at and args.apply:
        raise UsageError(
            "what will be deleted one day cannot be deleted now",
            hint="leave --apply out to see it, or --at to delete what is to be deleted now",
        )


def _surplus(word: str, command: str | None) -> UsageError:
    """Explain a word that has no place on the command line."""
    place, what = (command or "backupctl"), "option" if word.startswith("-") else "argument"
    known = [flag for flag, _ in COMMANDS[command][1] if flag.startswith("-")] if command else []
    hint = _meant(word.partition("=")[0], [*known, *_COMMON]) if word.startswith("--") else ""
    if "--at" in known and what == "argument":
        hint = 'a time of several words is quoted: --at "5 minutes ago"'
    page = f"backupctl {command}" if command else "backupctl"
    return UsageError(f"{place} takes no {what} '{word}'", hint=hint or f"see: {page} --help")
