"""Which of the administrators' documents is in force and what there is to say about it. Pure: nothing is read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.model import ErrorInfo, error_info
from nanumpay_backupd.settings.document import DOCUMENT_PATH, parse_document
from nanumpay_backupd.settings.problems import show
from nanumpay_backupd.settings.schema import AppSettings

__all__ = ["COLLECTION", "FILTER", "PROJECTION", "Verdict", "judge"]

COLLECTION: Final = "admins"
FILTER: Final = {DOCUMENT_PATH: {"$ne": None}}
"""Finds the documents that carry settings; a null counts as missing, as everywhere in the contract."""
PROJECTION: Final = {DOCUMENT_PATH: 1, "loginId": 1}
_SHOWN_NAMES: Final = 5


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Either ``app`` or ``problem`` is there. ``document_id`` is that of the document in force, as text."""

    app: AppSettings | None = None
    problem: ErrorInfo | None = None
    warnings: tuple[str, ...] = ()
    document_id: str = ""


def judge(documents: Sequence[Mapping[str, Any]]) -> Verdict:
    """Judge the documents that match `FILTER`, lowest ``_id`` first: the first one is in force, good or bad."""
    if not documents:
        return Verdict(
            problem=ErrorInfo(
                code="settings-missing",
                message=f"no document in collection {COLLECTION} carries {DOCUMENT_PATH}",
                hint="open the application's system settings as an administrator and save the backup settings once",
            )
        )
    first, *others = documents
    document_id = str(first.get("_id"))
    try:
        app = parse_document(_settings(first))
    except ConfigError as error:
        told = f"the backup settings of administrator {_name(first)} are not usable: {error.message}"
        problem = msgspec.structs.replace(error_info(error), message=told)
        return Verdict(problem=problem, document_id=document_id)
    return Verdict(app=app, warnings=_differences(first, app, others), document_id=document_id)


def _differences(first: Mapping[str, Any], app: AppSettings, others: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Compare what the documents mean, not how they are written: 7 is 7.0, and a missing field is its default."""
    differing = [_name(other) for other in others if not _means(other, app)]
    if not differing:
        return ()
    shown = ", ".join(differing[:_SHOWN_NAMES])
    if len(differing) > _SHOWN_NAMES:
        shown += f" and {len(differing) - _SHOWN_NAMES} more"
    name = _name(first)
    verb = "differs" if len(differing) == 1 else "differ"
    warning = (
        f"{len(others) + 1} administrators carry backup settings, and {len(differing)} {verb} from those in force: "
        f"in force are those of {name} (lowest _id), not those of {shown}; save as {name} to change what is done"
    )
    return (warning,)


def _means(document: Mapping[str, Any], app: AppSettings) -> bool:
    try:
        return parse_document(_settings(document)) == app
    except ConfigError:
        return False


def _settings(document: Mapping[str, Any]) -> object:
    above = document.get("systemSettings")
    return above.get("backup") if isinstance(above, Mapping) else above


def _name(document: Mapping[str, Any]) -> str:
    login = document.get("loginId")
    return show(login if isinstance(login, str) else str(document.get("_id")))
