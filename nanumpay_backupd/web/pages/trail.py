"""Events: what people were told, and who did what by this page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.web.answers import page
from nanumpay_backupd.web.visit import site_of

__all__ = ["show"]

_LIMIT: Final = 100
_PAGE: Final = 100


async def show(request: Request) -> Response:
    """Answer with the notices, or with the audit trail (``?what=audit``)."""
    site, asked = site_of(request), request.query_params
    status = await site.link.status()
    audit = asked.get("what") == "audit"
    text = asked.get("page", "1")
    at = max(1, int(text)) if text.isascii() and text.isdecimal() and len(text) < 6 else 1
    lines = [
        {**line._asdict(), "at": datetime.fromtimestamp(line.at, UTC).isoformat()}
        for line in site.ledger.audit(_PAGE + 1, (at - 1) * _PAGE)
    ]
    told = {} if audit else await site.link.ask("ListNotices", {"job": asked.get("job") or None, "limit": _LIMIT})
    return page(
        request,
        "events.html",
        here="events",
        status_reply=status,
        audit=audit,
        lines=lines[:_PAGE],
        more=len(lines) > _PAGE,
        at=at,
        notices=told.get("notices", []),
        channels=told.get("channels", []),
    )
