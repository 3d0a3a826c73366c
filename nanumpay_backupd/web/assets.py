"""The files that pages load: style, scripts, pictures. They come from the package, and may be kept for ever."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from nanumpay_backupd.errors import NotFoundError
from nanumpay_backupd.web.answers import assets, edition

__all__ = ["robots", "static"]


async def static(request: Request) -> Response:
    """Answer with one file; its address has the edition of all of them."""
    found = assets().get(request.path_params["name"])
    if found is None or request.path_params["digest"] != edition():
        raise NotFoundError("there is no such file")
    data, kind = found
    headers = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(data, media_type=kind, headers=headers)


async def robots(_request: Request) -> Response:
    """Ask search engines to stay away."""
    return Response("User-agent: *\nDisallow: /\n", media_type="text/plain")
