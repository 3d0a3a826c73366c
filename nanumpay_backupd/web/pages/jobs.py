"""To come."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import NotFoundError


async def show(_request: Request) -> Response:
    raise NotFoundError("not yet")
