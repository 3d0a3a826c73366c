"""n8n: what is there to be saved, how a backup of it is begun, and how a file of one is checked.

The reading itself is next door (`n8n_dump`), as is the way back (`n8n_target`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from nanumpay_backupd.errors import SourceError, VerifyError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import N8nCredentials, N8nSource
from nanumpay_backupd.sources.base import Driver, Dump, Estimate, FolderSource, FolderTarget, Scratch
from nanumpay_backupd.sources.json_items import JsonItems
from nanumpay_backupd.sources.n8n_command import N8nCommand
from nanumpay_backupd.sources.n8n_dump import FOLDER, METADATA, PUBLISHED, N8nDump, N8nFacts
from nanumpay_backupd.sources.n8n_link import N8nLink, Refusal, address

__all__ = ["N8nDriver", "N8nServer"]


class N8nDriver(Driver):
    """The rooms of the type ``n8n``."""

    def __init__(self, settings: N8nSource) -> None:
        self._settings = settings

    def source(self) -> FolderSource:
        """See `Driver.source`."""
        return N8nServer(self._settings)

    def target(self) -> FolderTarget:
        """See `Driver.target`."""
        from nanumpay_backupd.sources.n8n_target import N8nTarget

        return N8nTarget(self._settings)

    def scratch(self, folder: Path, manifest: Manifest) -> Scratch:  # noqa: ARG002 - any backup can be unpacked
        """See `Driver.scratch`: a folder, since an n8n of our own would be 1.6 GB."""
        from nanumpay_backupd.sources.n8n_folder import N8nScratch

        return N8nScratch(folder)


class N8nServer(FolderSource):
    """The workflows that a key may see, and the credentials."""

    def __init__(self, settings: N8nSource) -> None:
        self._settings = settings
        self._facts: N8nFacts | None = None

    def preflight(self) -> Estimate:
        """List what is there, and look at n8n's program. See `Source.preflight`."""
        settings, ids, active = self._settings, dict[str, None](), 0
        with N8nLink(settings) as link:
            try:
                for item in link.listed("workflows", excludePinnedData="true"):
                    if isinstance(item.get("id"), str) and item["id"] not in ids:
                        ids[item["id"]] = None
                        active += bool(item.get("active"))
            except Refusal as refusal:
                raise address(settings, refusal, "to list workflows") from None
            size, version = link.received, link.version()
        if not ids:
            raise SourceError(
                f"n8n at {settings.url} shows no workflow: there is nothing to back up",
                hint="is it the right n8n? a key of a member shows that member's own workflows only",
                code="source-empty",
                retryable=False,
            )
        tool = N8nCommand(settings).fit(version) if settings.credentials != N8nCredentials.NONE else ""
        self._facts = N8nFacts(version=version, tool_version=tool, ids=tuple(ids))
        named = f"n8n {version}" if version else "n8n of an unknown version"
        how = f"credentials ({settings.credentials}) by n8n {tool}" if tool else "without credentials"
        return Estimate(
            # Indented in a file of its own, and once more in the file with all.
            raw_bytes=size * 3 + (1 << 20),
            summary=f"{named} at {settings.url}, {len(ids):,} workflows, {active:,} of them active; {how}",
        )

    def start(self, folder: Path) -> Dump:
        """Start the reading. See `FolderSource.start`."""
        assert self._facts is not None, "preflight comes first"
        return N8nDump(self._settings, self._facts, folder)

    def check(self, name: str) -> Callable[[bytes], None] | None:
        """Read a file's JSON, and take its digest. See `Source.check`."""
        if name.startswith(f"{FOLDER}/"):
            return _WorkflowCheck(name, 0)
        return _FileCheck(name, 0 if name == METADATA or name.startswith(f"{PUBLISHED}/") else 1)


class _FileCheck:
    """Judges a file of JSON; ``digest`` is the SHA-256 of its bytes."""

    def __init__(self, name: str, level: int) -> None:
        self._name = name
        self._items = JsonItems(level)
        self._sha = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Return the digest of what was read so far, as hex digits."""
        return self._sha.hexdigest()

    def __call__(self, piece: bytes) -> None:
        """See `Checker`."""
        self._sha.update(piece)
        try:
            for item in self._items.feed(piece):
                self._take(item)
            if not piece:
                self._end(self._items.around())
        except ValueError as error:
            raise VerifyError(
                f"{self._name} in the archive is damaged: {error}",
                hint="do not rely on this backup; older verified ones are kept; run a new one now: backupctl run",
                code="verify-structure",
            ) from None

    def _take(self, item: dict[str, object]) -> None:
        """See one object."""

    def _end(self, around: object) -> None:
        """See what is around the objects; raises ValueError."""


class _WorkflowCheck(_FileCheck):
    """Judges the file of one workflow."""

    count = 0

    def _take(self, item: dict[str, object]) -> None:
        self.count += isinstance(item.get("nodes"), list) and isinstance(item.get("id"), str)

    def _end(self, around: object) -> None:
        if self.count != 1 or around != 0:
            raise ValueError("it is no workflow")
