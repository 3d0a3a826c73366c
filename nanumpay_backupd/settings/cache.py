"""The last good application settings on disk, so that a start without MongoDB still has a schedule. Not the catalog.

The file holds the secrets of the settings, so it is private (0600); it is written as a whole or not at all.
"""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from nanumpay_backupd.settings.schema import AppSettings, decode_hook, encode_hook
from nanumpay_backupd.system.files import make_private_dir, read_json_bytes, write_atomic

__all__ = ["CachedSettings", "SettingsCache"]

_log = structlog.get_logger(__name__)
_FORMAT: Final = 1
_LIMIT: Final = 1 << 20


class CachedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept: the settings, since when they are in force (UTC), and where they came from.

    ``place`` is host and database without secrets. ``token`` is the change stream's resume token as extended JSON,
    valid at ``token_at`` (UTC) for that place only.
    """

    app: AppSettings
    since: datetime
    place: str
    document_id: str
    token: str = ""
    token_at: datetime | None = None
    format: int = _FORMAT


class SettingsCache:
    """One file with one `CachedSettings`; may be used from threads. Neither method raises: a cache is not vital."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # A stop may save while a thread still does; both would write the same temporary file.
        self._writing = threading.Lock()

    def load(self) -> CachedSettings | None:
        """Return what was saved, or None; a damaged file is ignored with a warning in the log."""
        try:
            data = read_json_bytes(self._path, limit=_LIMIT)
            if data is None:
                return None
            cached = msgspec.json.decode(data, type=CachedSettings, dec_hook=decode_hook)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            # The decoder's words name the place in the file, not its values.
            _log.warning("the last good settings on disk cannot be used", file=str(self._path), reason=str(error))
            return None
        if cached.format != _FORMAT:
            _log.warning(
                "the last good settings on disk have another format", file=str(self._path), format=cached.format
            )
            return None
        return cached

    def save(self, cached: CachedSettings) -> None:
        """Replace what was saved; waits for the disk. A disk that refuses is a warning in the log."""
        try:
            make_private_dir(self._path.parent)
            with self._writing:
                write_atomic(self._path, msgspec.json.encode(cached, enc_hook=encode_hook), mode=0o600)
        except OSError as error:
            _log.warning("the last good settings cannot be kept on disk", file=str(self._path), reason=error.strerror)
