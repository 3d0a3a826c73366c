"""Downloads of artifacts, whole or in part, from here or from a copy elsewhere. The daemon opens, this sends."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import NotFoundError

__all__ = ["download"]


async def download(_request: Request) -> Response:
    """Answer with the file."""
    raise NotFoundError("not yet")
