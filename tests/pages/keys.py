"""Writes the part of backupd.toml.5 that lists the keys, from the tables that the checking works with, as mdoc."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from nanumpay_backupd.events import EVENTS
from nanumpay_backupd.settings.document import FIELDS
from nanumpay_backupd.settings.options import (
    CHANNEL,
    DESTINATIONS,
    GROUP,
    JOB,
    JOB_ENCRYPTION,
    MONITOR,
    PLACE_MONITOR,
    RETENTION,
    SINGLE,
    TOP,
)
from nanumpay_backupd.settings.source_tables import SOURCES
from nanumpay_backupd.settings.tables import Option, Table

__all__ = ["fill", "parts"]

_MARK: Final = re.compile(r'^\.\\" BEGIN (\w+)\n.*?^\.\\" END\n', re.MULTILINE | re.DOTALL)
_SIGNS: Final = {"\\": "\\e", "…": "...", "\u2013": "\\(en", '"': "\\(dq"}
# Punctuation that a macro sets behind its text by itself.
_CLOSING: Final = ".,;:)"


def fill(text: str) -> str:
    """Return a page with what stands between BEGIN NAME and END written anew."""
    written = parts()
    return _MARK.sub(lambda found: f'.\\" BEGIN {found[1]}\n{written[found[1]]}.\\" END\n', text)


def parts() -> dict[str, str]:
    """Return the parts by name: the keys of the file, of destinations, of jobs; the fields of the application."""
    return {
        "tables": "".join(_section(table) for table in (TOP, *SINGLE)),
        "destinations": "".join(_kind("[destination.NAME]", name, table) for name, table in DESTINATIONS.items()),
        "channels": _section(CHANNEL) + _events(),
        "jobs": "".join(
            (
                _section(JOB),
                *(_kind("[[job]]", name, table) for name, table in SOURCES.items()),
                *(_section(one) for one in (RETENTION, MONITOR, PLACE_MONITOR, JOB_ENCRYPTION, GROUP)),
            )
        ),
        "fields": "".join(_fields()),
    }


def _section(table: Table) -> str:
    name = f"[[{table.path}]]" if table is JOB else f"[{table.path}]" if table.path else "Before the first table"
    return f".Ss {name}\n{_prose(table.doc)}{_list(table)}"


def _events() -> str:
    items = "".join(f".It Sy {event}\n{_prose(meaning)}" for event, meaning in EVENTS.items())
    return f"The events are:\n.Bl -tag -width Ds\n{items}.El\n"


def _kind(where: str, name: str, table: Table) -> str:
    return f".Ss {where}, type = \\(dq{name}\\(dq\n{_prose(table.doc)}{_list(table)}"


def _list(table: Table) -> str:
    return ".Bl -tag -width Ds\n" + "".join(_item(table, option) for option in table.options) + ".El\n"


def _item(table: Table, option: Option) -> str:
    example = f"Example:\n.Ql {_argument(option.example)} .\n" if len(option.example) < 60 else ""
    return f".It Cm {option.key}\n{_prose(option.doc)}Must be {_default(table, option)}{example}"


def _default(table: Table, option: Option) -> str:
    must_be = _prose(f"{option.kind.expected}.")
    if option.required:
        return f"{must_be}Required.\n"
    if option.default:
        return f"{must_be}Default:\n{_prose(option.default + '.')}"
    value = table.default(option)
    assert value is not msgspec.NODEFAULT, f"{table.path}.{option.key} has no default to show"
    return f"{must_be}Default:\n.Ql {_argument(option.kind.show(value))} .\n"


def _fields() -> Iterator[str]:
    yield ".Bl -tag -width Ds\n"
    for field in FIELDS:
        must_be = _prose(f"{field.kind.expected}.")
        default = _argument(field.kind.show(field.default))
        yield f".It Cm {field.path}\n{_prose(field.doc)}Must be {must_be}Default:\n.Ql {default} .\n"
    yield ".El\n"


def _prose(text: str) -> str:
    """Write sentences, one a line, with what stands between backticks as literals."""
    lines: list[str] = []
    for at, piece in enumerate(re.split(r"`([^`]*)`", text)):
        if at % 2:
            lines.append(f".Ql {_argument(piece)}")
            continue
        rest = piece
        if lines and (sign := rest[:1]) and sign in _CLOSING:
            lines[-1] += f" {sign}"
            rest = rest[1:]
        lines += [_line(sentence) for sentence in re.split(r"(?<=[.;:]) (?=[A-Z])", rest.strip()) if sentence]
    return "".join(f"{line}\n" for line in lines)


def _line(text: str) -> str:
    plain = "".join(_SIGNS.get(sign, sign) for sign in text)
    return f"\\&{plain}" if plain[:1] in (".", "'") else plain


def _argument(text: str) -> str:
    """Write a macro's argument: in quotes, so that spaces and signs stay."""
    return '"' + "".join(_SIGNS.get(sign, sign) for sign in text) + '"'
