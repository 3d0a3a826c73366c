"""To come."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import NotFoundError


async def listing(_request: Request) -> Response:
    raise NotFoundError("not yet")


async def show(_request: Request) -> Response:
    raise NotFoundError("not yet")


async def verify(_request: Request) -> Response:
    raise NotFoundError("not yet")


async def pin(_request: Request) -> Response:
    raise NotFoundError("not yet")


async def unpin(_request: Request) -> Response:
    raise NotFoundError("not yet")


async def delete(_request: Request) -> Response:
    raise NotFoundError("not yet")
