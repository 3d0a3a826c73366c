"""Whose Dropbox it is, and what that means for backups: asked of it, judged here. Stores nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from nanumpay_backupd.stores.base import Finding
from nanumpay_backupd.stores.dropbox_errors import AnswerError, classify
from nanumpay_backupd.stores.dropbox_link import DropboxLink

__all__ = ["RIGHTS", "judge_account", "judge_room", "survey"]

RIGHTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "put": "files.content.write",
        "list": "files.metadata.read",
        "get": "files.content.read",
        "delete": "files.content.write",
    }
)
_GUIDE: Final = "docs/destinations/dropbox.md"
_NEARLY_FULL: Final = 0.9
_RIGHT: Final = f"to have it looked at, give the app account_info.read ({_GUIDE})"


def survey(link: DropboxLink) -> tuple[Finding, ...]:
    """Ask for the account and its room; raises what `DropboxLink` raises where nobody answers."""
    account = _asked(link, "users/get_current_account")
    if account is None:
        return (Finding("account", "ok", "not known: the app may not ask for it", _RIGHT),)
    return (*judge_account(account), *judge_room(_asked(link, "users/get_space_usage")))


def _asked(link: DropboxLink, name: str) -> dict[str, Any] | None:
    try:
        return link.call(name, None)
    except AnswerError as error:
        if classify(error)[0] in ("destination-denied", "destination-failed"):
            return None
        raise


def judge_account(account: Mapping[str, Any]) -> list[Finding]:
    """Say whose account it is, and how long its plan keeps what is deleted."""
    kind = str((account.get("account_type") or {}).get(".tag") or "")
    team = (account.get("team") or {}).get("name")
    whose = f"of {account['email']}" if account.get("email") else "that does not tell its address"
    plan = f"{kind or 'unknown'} plan{f', team {team}' if team else ''}"
    # help.dropbox.com, "How to recover deleted files": Basic and Plus 30 days, Professional and teams 180 and more.
    days = 180 if kind in ("business", "pro") and team else 30
    advice = f"every login may delete: encrypt backups, and have a second destination ({_GUIDE})"
    text = f"what is deleted or replaced can be brought back for at least {days} days"
    return [Finding("account", "ok", f"an account {whose}, {plan}"), Finding("versioning", "ok", text, advice)]


def judge_room(usage: Mapping[str, Any] | None) -> list[Finding]:
    """Warn of an account that is nearly full: it is shared with whatever else is there."""
    allocated = ((usage or {}).get("allocation") or {}).get("allocated")
    if not allocated:
        return []
    used = int((usage or {}).get("used", 0)) / int(allocated)
    if used < _NEARLY_FULL:
        return []
    return [Finding("room", "warning", f"the account is {used:.0%} full", "make room there, or keep fewer backups")]
