"""The backup and the copy of it that a restore was asked for, with all that its manifest says. Asks no server."""

from __future__ import annotations

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import NotFoundError, RefusedError
from nanumpay_backupd.model import Backup, Copy
from nanumpay_backupd.pipeline.instead import other_choice
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.restore_plan import choose_copy
from nanumpay_backupd.settings.schema import RunSpec
from nanumpay_backupd.wording import words_for

__all__ = ["known_backup", "no_files", "unlocked_backup", "usable_copy"]


def known_backup(catalog: Catalog, name: str, layout: Layout) -> Backup:
    """Return a backup by its name; raises NotFoundError, RefusedError (``copy-unusable``) for a damaged manifest."""
    backup = catalog.backup(name)
    if backup is None and layout.manifest(name).exists():
        raise RefusedError(
            f"{name} cannot be restored: its manifest {layout.manifest(name)} is damaged, or that of another backup",
            hint="another backup: backupctl list",
            code="copy-unusable",
        )
    if backup is None:
        raise NotFoundError(f"there is no backup {name!r}", hint="see: backupctl list")
    return backup


def unlocked_backup(backup: Backup, copy: Copy, keys: Keyring) -> Backup:
    """Return a backup with all that its manifest says; raises DecryptError where its copy cannot be opened here."""
    if backup.manifest is None:
        return backup
    keys.unlock(backup.manifest.at(copy.key).artifact)
    return msgspec.structs.replace(backup, manifest=keys.whole(backup.manifest))


def usable_copy(backup: Backup, spec: RunSpec, catalog: Catalog) -> Copy:
    """Return the copy to read; where none can be relied on, the fault says what else can be restored."""
    assert spec.restore is not None, "a restore needs an order"
    source = spec.restore.source
    try:
        return choose_copy(backup, source, [destination.name for destination in spec.job.destinations])
    except RefusedError as error:
        error.hint = other_choice(backup, source, spec, catalog)
        raise


def no_files(backup: str, kind: str) -> RefusedError:
    """Return what is to be said of a backup of another type of source."""
    words = words_for(kind)
    return RefusedError(
        f"{backup} is a backup of {words.name}: it holds {words.parts}, and no files that could be listed",
        hint=f"what it holds: backupctl show {backup}",
        code="not-for-this-source",
    )
