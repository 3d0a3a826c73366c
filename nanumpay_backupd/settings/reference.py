"""Writes the reference of all settings and the annotated example from the tables that the checking works with.

``python -m nanumpay_backupd.settings.reference docs`` writes both files into that folder. No key is described here.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.events import EVENTS
from nanumpay_backupd.settings.destination_tables import EXAMPLE_NAMES
from nanumpay_backupd.settings.document import DOCUMENT_PATH, FIELDS
from nanumpay_backupd.settings.options import (
    CHANNEL,
    COUNTS,
    DESTINATIONS,
    GROUP,
    JOB,
    JOB_ENCRYPTION,
    MONITOR,
    PLACE_MONITOR,
    RETENTION,
    SINGLE,
    TOP,
    WINDOWS,
)
from nanumpay_backupd.settings.source_tables import DEFAULT_TYPE, SOURCES
from nanumpay_backupd.settings.tables import Option, Table

__all__ = ["example_toml", "reference_markdown"]

_INTRO: Final = """\
# Configuration reference

<!-- Written by `python -m nanumpay_backupd.settings.reference docs` from the tables that the checking works with. -->

What is backed up, when and where comes from two places:

1. **The application's own settings**, saved in its administration page. They define the job `nanumpay`. The daemon
   notices a save by itself: at once on a replica set (change stream), within `mongodb.poll_interval` on a standalone
   server. Nothing has to be restarted or reloaded.
2. **The host file** `/etc/nanumpay/backupd.toml`: what the application cannot know (how MongoDB is reached, folders,
   further destinations and jobs). After a change: `systemctl reload nanumpay-backupd`. A host file with a mistake is
   refused as a whole, the running configuration stays in force, and the message names the key, the reason and the fix.
   Without the file all defaults apply. An annotated example is in [backupd.toml.example](backupd.toml.example).

`backupctl settings` shows what is in force and where each part comes from; `backupctl doctor` tries it.
"""

_DOCUMENT: Final = f"""
## The application's settings

Database `mongodb.database`, collection `admins`, field `{DOCUMENT_PATH}` of the document with the lowest `_id` that
has one. When several administrators carry settings that differ, `backupctl status` warns and says whose are in force.
Missing fields and nulls take their default; fields not listed here are ignored; numbers may be int, long or double.
A document with a mistake is refused as a whole: the last good settings stay in force (kept in
`/var/lib/nanumpay-backupd/settings.json`, so also across a restart without MongoDB), and `backupctl status` says which
field is wrong, why, and what to write. The same holds when the document vanishes.

"""

_HOST: Final = """
## The host file

TOML, UTF-8. Unknown keys are refused. The file must not be writable by every user.

- **Durations** carry a unit: `"500ms"`, `"60s"`, `"15m"`, `"2h"`, `"7d"`, `"1h30m"`. **Sizes** too: `"16MiB"`, `"5GB"`.
- **Secrets** are written as a reference: `{ credential = "name" }` reads what systemd passes by
  `LoadCredential=name:/path` or, encrypted on the disk, `LoadCredentialEncrypted=name:/path`
  ([credentials](operations.md#credentials)), `{ env = "NAME" }` an environment variable,
  `{ file = "/path" }` a file, refused when every user can read it. A secret as plain text is accepted only while the
  host file itself is not readable by every user (`chmod 0640`). They never appear in logs, status or process lists.
- **Environment**: `MONGODB_URI` (for `mongodb.uri`) and `BACKUP_PATH` (for `paths.backups`) are honoured, so the
  application's own env file can be shared (`EnvironmentFile=/etc/nanumpay/nanumpay.env`). The host file wins where it
  sets the key, the environment comes next, the default last.
"""

_DESTINATION: Final = """
### `[destination.NAME]`

Named places for copies, used by `nanumpay.destinations` and `destinations` of a `[[job]]`. The name has lower-case
letters, digits and dashes; `app` (what the application's form says) and `local` (the backups folder) are taken.
`type` is required and decides which keys there are.
"""

_RETENTION: Final = """
### `[job.retention]`, `[nanumpay.retention]`, `[destination.NAME.retention]`

How long backups are kept; what the keys do is in [retention.md](retention.md).

These tables have the same keys, and each place is pruned by itself. What counts there, the first that says something:

1. `[destination.NAME.retention]`: for what lies there, whichever job it is of. NAME may also be `local` (the backups
   folder) or `app` (what the application's form says); then it is all that such a table may hold.
2. `[job.retention]` (below its `[[job]]`), and for the application's job `[nanumpay.retention]`.
3. For the application's job: `retention.count` and `retention.days` of its form.
4. The defaults.

This is asked for the rule, for `max_total_size` and for `min_keep` each by itself. The rule is either `count` and
`days` or the windows (`keep_…`), and is taken from one table as a whole. A table that says both is refused.
"""

_OWN: Final = """
### `[job.retry]`, `[nanumpay.retry]`, `[job.limits]`, `[nanumpay.limits]`

How one job is tried again, and its limits. `[job.retry]` has the keys of `[retry]`; `[job.limits]` those of `[limits]`
but `max_parallel`. What such a table leaves out is as in `[retry]` and `[limits]`; a `blackout` of its own takes the
place of the general one, `blackout = []` is none.
"""

_EVENTS: Final = """
The events:

"""

_EXAMPLE_HEAD: Final = """\
# /etc/nanumpay/backupd.toml: host file of nanumpay-backupd, with every key.
# All lines are comments, so as it is this file changes nothing: take away the first "#" of what you need.
# After a change: systemctl reload nanumpay-backupd. Reference: docs/configuration.md.
"""


def reference_markdown() -> str:
    """Return docs/configuration.md."""
    lines = [_INTRO, _DOCUMENT, *_document_table(), _HOST]
    for table in (TOP, *SINGLE):
        title = f"`[{table.path}]`" if table.path else "Top of the file"
        lines += [f"\n### {title}\n\n{table.doc}\n\n", *_table(table)]
    lines.append(_DESTINATION)
    for kind, table in DESTINATIONS.items():
        lines += [f'\n#### type = "{kind}"\n\n{table.doc}\n\n', *_table(table)]
    lines += [f"\n### `[{CHANNEL.path}]`\n\n{CHANNEL.doc}\n\n", *_table(CHANNEL), _EVENTS]
    lines += [f"- `{event}`: {meaning}\n" for event, meaning in EVENTS.items()]
    lines += [f"\n### `[[job]]`\n\n{JOB.doc}\n\n", *_table(JOB)]
    for kind, table in SOURCES.items():
        lines += [f'\n#### `[[job]]`, type = "{kind}"\n\n{table.doc}\n\n', *_table(table)]
    lines += [_RETENTION, *_table(RETENTION)]
    for table in (MONITOR, PLACE_MONITOR):
        lines += [f"\n### `[{table.path}]`\n\n{table.doc}\n\n", *_table(table)]
    lines += [f"\n#### `[{JOB_ENCRYPTION.path}]`\n\n{JOB_ENCRYPTION.doc}\n\n", *_table(JOB_ENCRYPTION)]
    lines.append(_OWN)
    lines += [f"\n### `[{GROUP.path}]`\n\n{GROUP.doc}\n\n", *_table(GROUP)]
    return "".join(lines)


def example_toml() -> str:
    """Return docs/backupd.toml.example: as it is it changes nothing, uncommented it sets every key."""
    lines = [_EXAMPLE_HEAD, *_example(TOP, "")]
    for table in SINGLE:
        lines += _example(table, f"[{table.path}]")
    for kind, table in DESTINATIONS.items():
        lines += _example(table, f"[destination.{EXAMPLE_NAMES[kind]}]", f'type = "{kind}"')
    lines += _example(
        _without(COUNTS, "How long copies are kept at one destination."), "[destination.offsite.retention]"
    )
    lines += _example(PLACE_MONITOR, "[destination.offsite.monitor]")
    lines += _example(CHANNEL, "[channel.ops-mail]")
    # One job shows all keys, the further types only their own.
    own = SOURCES[DEFAULT_TYPE].options
    lines += _example(JOB._replace(options=(*JOB.options, *own)), "[[job]]")
    lines += _example(_without(WINDOWS, "How long a job's backups are kept."), "[job.retention]")
    lines += _example(MONITOR, f"[{MONITOR.path}]")
    lines += _example(JOB_ENCRYPTION, f"[{JOB_ENCRYPTION.path}]")
    for kind, table in SOURCES.items():
        if kind != DEFAULT_TYPE:
            lines += _example(table, "[[job]]", f'name = "{kind}"', f'type = "{kind}"')
    lines += _example(GROUP, "[group.site]")
    return "".join(lines)


def _document_table() -> Iterator[str]:
    yield "| field | must be | default | meaning |\n|---|---|---|---|\n"
    for field in FIELDS:
        must_be, default = _cell(field.kind.expected), field.kind.show(field.default)
        yield f"| `{field.path}` | {must_be} | `{default}` | {_cell(field.doc)} |\n"


def _table(table: Table) -> Iterator[str]:
    yield "| key | must be | default | meaning | example |\n|---|---|---|---|---|\n"
    for option in table.options:
        example = f"`{option.example}`" if option.example else ""
        must_be, doc = _cell(option.kind.expected), _cell(option.doc)
        yield f"| `{option.key}` | {must_be} | {_cell(_default(table, option))} | {doc} | {_cell(example)} |\n"


def _default(table: Table, option: Option) -> str:
    if option.required:
        return "required"
    if option.default:
        return option.default
    value = table.default(option)
    assert value is not msgspec.NODEFAULT, f"{table.path}.{option.key} has no default to show"
    return f"`{option.kind.show(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _without(left_out: tuple[Option, ...], doc: str) -> Table:
    """Return the table of how long to keep without one of the two ways to say it: they exclude each other."""
    return RETENTION._replace(doc=doc, options=tuple(item for item in RETENTION.options if item not in left_out))


def _example(table: Table, header: str, *first: str) -> Iterator[str]:
    yield f"\n# {table.doc}\n"
    yield from (f"#{line}\n" for line in (header, *first) if line)
    for option in table.options:
        default = "Required" if option.required else f"Default: {_default(table, option).replace('`', '')}"
        yield textwrap.fill(f"{option.doc} {default}.", 118, initial_indent="# ", subsequent_indent="# ")
        yield f"\n#{option.key} = {option.example}\n"


def main() -> None:
    """Write both files into the folder named on the command line."""
    folder = Path(sys.argv[1])
    (folder / "configuration.md").write_text(reference_markdown(), encoding="utf-8")
    (folder / "backupd.toml.example").write_text(example_toml(), encoding="utf-8")


if __name__ == "__main__":
    main()
