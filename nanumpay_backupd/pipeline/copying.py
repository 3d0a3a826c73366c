"""A further copy of one backup at a place, or a move there: encrypted anew where the job encrypts otherwise by now.

No good copy goes before the new one was read back. Queues nothing of its own accord; how a copy is sent is `upload`'s.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, DecryptError, NotFoundError, RefusedError
from nanumpay_backupd.model import (
    LOCAL,
    Artifact,
    Backup,
    BackupState,
    Copy,
    CopyState,
    Manifest,
    Outcome,
    Proof,
    Run,
    Stage,
)
from nanumpay_backupd.pipeline.backup import recorded
from nanumpay_backupd.pipeline.keyring import Keyring
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout, form_name, plain_name
from nanumpay_backupd.pipeline.members import chunks_of
from nanumpay_backupd.pipeline.outbox import can_be_sent, discard, note_form, part_of, proven
from nanumpay_backupd.pipeline.parcels import Parcel, make_parcel, relayed
from nanumpay_backupd.pipeline.plain import make_plain
from nanumpay_backupd.pipeline.prune import delete_copy
from nanumpay_backupd.pipeline.readback import read_back
from nanumpay_backupd.pipeline.relay import relay, relays
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.upload import OpenStore, queued_copy, send_parcel
from nanumpay_backupd.pipeline.verify import opened
from nanumpay_backupd.settings.schema import CopyOrder, JobSpec, RunSpec

__all__ = ["check_order", "copy_backup"]

_PRESENT: Final = (CopyState.UPLOADED, CopyState.VERIFIED)


def check_order(order: CopyOrder, backup: Backup, job: JobSpec) -> None:
    """Raise NotFoundError or RefusedError where an order makes no sense, whatever the places then say."""
    known = [destination.name for destination in job.destinations]
    if order.destination not in known:
        raise NotFoundError(
            f"job {job.name} has no destination {order.destination!r}",
            hint=f"its destinations are: {', '.join(known) or 'none yet'}",
        )
    if backup.state is not BackupState.VERIFIED:
        raise RefusedError(
            f"{backup.id} is {backup.state.value}: only what was verified is copied",
            hint=f"read it back first: backupctl verify {backup.id}",
        )
    at = {copy.destination for copy in backup.copies if copy.state in _PRESENT}
    if order.source and order.source not in at:
        raise NotFoundError(
            f"{backup.id} has no good copy at {order.source!r}", hint=f"where it is: backupctl copies {backup.id}"
        )
    if order.move and order.source in ("", order.destination):
        raise RefusedError(
            "a move is from one place to another", hint="say from where: --from DESTINATION (or --from local)"
        )


def copy_backup(spec: RunSpec, catalog: Catalog, recorder: Recorder, open_store: OpenStore) -> Run:
    """Do what ``spec.copying`` orders; returns the finished Run.

    Failed where the copy did not arrive or is not what was sent: then everything is as it was, and a copy that was not
    there before may be queued; degraded where it did, and only the old one could not be deleted.
    """
    layout = Layout(spec.paths.backups)

    def work() -> list[BackupdError]:
        with Keyring(spec.job.encryption) as keys:
            return _Copying(spec, layout, catalog, recorder, open_store, keys=keys).run()

    return recorded(spec, layout, recorder, work, partly=Outcome.DEGRADED)


class _Copying:
    """One copy under way."""

    def __init__(
        self,
        spec: RunSpec,
        layout: Layout,
        catalog: Catalog,
        recorder: Recorder,
        open_store: OpenStore,
        *,
        keys: Keyring,
    ) -> None:
        assert spec.copying is not None, "an order is needed"
        self._order = spec.copying
        self._job = spec.job
        self._layout = layout
        self._catalog = catalog
        self._recorder = recorder
        self._open_store = open_store
        self._keys = keys

    def run(self) -> list[BackupdError]:
        """Make the copy, then let go what it takes the place of; returns the faults of the latter."""
        order, recorder = self._order, self._recorder
        backup = self._backup()
        check_order(order, backup, self._job)
        recorder.run = msgspec.structs.replace(recorder.run, backup=backup.id)
        before = next((one for one in backup.copies if one.destination == order.destination), None)
        good = before if before is not None and before.state in _PRESENT and self._still_there(before) else None
        parcel = self._parcel(backup, good)
        if parcel is None:
            assert good is not None, "only such a one needs nothing sent"
            self._look(backup, good)
        else:
            self._send(backup, parcel, before)
        with contextlib.ExitStack() as stack:
            stack.callback(self._clear, backup.id)
            return self._let_go(backup, good, parcel)

    def _still_there(self, copy: Copy) -> bool:
        """Look whether the place has what is on record as there: its settings may lead elsewhere by now."""
        destination = next(item for item in self._job.destinations if item.name == copy.destination)
        with contextlib.closing(self._open_store(destination)) as store:
            found = store.stat(copy.key)
        if found is not None and found.size == copy.size:
            return True
        self._recorder.warn(f"{copy.key} is not at {copy.destination} as it was left there: it is sent again")
        return False

    def _backup(self) -> Backup:
        backup = self._catalog.backup(self._order.backup)
        if backup is None or backup.manifest is None:
            raise NotFoundError(f"there is no backup {self._order.backup!r}", hint="see: backupctl list")
        return backup

    # What is sent

    def _parcel(self, backup: Backup, good: Copy | None) -> Parcel | None:
        """Make ready what the place is to have; None where ``good``, the copy that is there, is just that."""
        assert backup.manifest is not None
        manifest, keys = backup.manifest, self._keys
        destination = next(item for item in self._job.destinations if item.name == self._order.destination)
        if destination.wants_plain:
            return None if good is not None else self._plain(backup)
        if good is not None and self._is_current(manifest, good):
            return None
        source = self._order.source
        sources = [one for one in relays(backup, self._job) if source in ("", one.destination)]
        fitting = [one for one in sources if self._is_current(manifest, one)]
        own = source in ("", LOCAL) and self._layout.artifact(manifest.artifact.name).exists()
        unsent = can_be_sent(backup, self._layout, keys, self._job) and self._sends_current(manifest)
        if source in ("", LOCAL) and unsent:
            return make_parcel(
                backup, self._job, self._catalog, self._layout, self._recorder, keys=keys, open_store=self._open_store
            )
        if fitting:
            return self._relayed(backup, fitting)
        if (sealed := self._sealed(backup, sources, own=own)) is not None:
            return sealed
        if good is not None:
            raise DecryptError(
                f"{backup.id} is encrypted to other keys than the job's, and there is no key here to open it",
                hint="add the old key to decrypt_with in [encryption], then again",
                code="key-missing",
            )
        if not sources:
            raise NotFoundError(
                f"there is no file of {backup.id} that could be copied",
                hint=f"where its copies are: backupctl copies {backup.id}",
                code="artifact-missing",
            )
        self._recorder.warn(f"{backup.id} stays encrypted as it was: there is no key here to open it")
        return self._relayed(backup, sources)

    def _plain(self, backup: Backup) -> Parcel:
        """Make ready what a place gets that encrypts by itself."""
        return make_plain(
            backup,
            self._job,
            self._catalog,
            self._layout,
            self._recorder,
            keys=self._keys,
            open_store=self._open_store,
            source=self._order.source,
        )

    def _is_current(self, manifest: Manifest, copy: Copy) -> bool:
        return self._keys.is_current(manifest.at(copy.key).artifact)

    def _sends_current(self, manifest: Manifest) -> bool:
        """Tell whether what the destinations get of the file here is encrypted as now, or is yet to be."""
        yet = manifest.elsewhere is None and self._keys.seals_for(self._job)
        return (yet and manifest.artifact.encryption == "none") or self._keys.is_current(manifest.stored_elsewhere)

    def _relayed(self, backup: Backup, copies: list[Copy]) -> Parcel:
        """Bring a copy here as it is."""
        with self._recorder.stage(Stage.FETCH, total=copies[0].size):
            return relayed(
                backup,
                copies,
                self._job,
                self._layout,
                self._recorder,
                keys=self._keys,
                open_store=self._open_store,
            )

    def _sealed(self, backup: Backup, sources: list[Copy], *, own: bool) -> Parcel | None:
        """Encrypt the backup anew, out of the file here or of a copy; None where nothing can be opened."""
        assert backup.manifest is not None
        manifest = backup.manifest
        if own and self._keys.opens(manifest.artifact):
            return self._seal(backup, manifest, self._layout.artifact(manifest.artifact.name))
        for copy in sources:
            there = manifest.at(copy.key)
            if self._keys.opens(there.artifact):
                alike = [one for one in sources if one.key == copy.key]
                with self._recorder.stage(Stage.FETCH, total=copy.size):
                    path, _ = relay(
                        backup, alike, self._job, self._layout, self._open_store, self._recorder, counted=True
                    )
                try:
                    return self._seal(backup, there, path)
                finally:
                    path.unlink(missing_ok=True)
        return None

    def _seal(self, backup: Backup, there: Manifest, path: Path) -> Parcel:
        """Encrypt a file anew, prove that, and note that this form exists."""
        assert backup.manifest is not None
        keys, recorder = self._keys, self._recorder
        # A closed manifest does not say what is inside; and what is beside the new file tells it all.
        whole = keys.whole(backup.manifest)
        before = whole.at(there.artifact.name).artifact if not there.closed else keys.whole(there).artifact
        with recorder.stage(Stage.ENCRYPT, total=before.size):
            for warning in keys.prepare(recorder.clock.now()):
                recorder.warn(warning)
            plain = _plain_of(before)
            part = part_of(self._layout, plain.name)
            try:
                with opened(path, msgspec.structs.replace(there, artifact=before)) as stream:
                    pieces = keys.opened(before, chunks_of(path, stream))
                    made = keys.seal(pieces, lambda: plain, part, recorder.progress)
                made = msgspec.structs.replace(made, name=form_name(made.name, len(backup.manifest.forms) + 1))
                made = proven(part, made, whole, self._layout, keys, recorder.clock, tick=lambda _: recorder.alive())
            finally:
                part.unlink(missing_ok=True)
            recorder.detail(f"{made.name}, encrypted as the job is now")
        described = msgspec.structs.replace(whole, artifact=plain, elsewhere=made, forms=())
        return Parcel(self._layout.waiting(made.name), made, keys.describe(described))

    # Sending it, and what follows

    def _send(self, backup: Backup, parcel: Parcel, before: Copy | None) -> None:
        """Bring it there and read it back; raises the fault, after which ``before`` holds again.

        Only what is new there and as everywhere else stays queued.
        """
        now = self._recorder.clock.now()
        note_form(backup, parcel.artifact, self._layout, self._catalog)
        copy = queued_copy(backup.id, self._order.destination, parcel.artifact.name, parcel.artifact.size, now)
        with self._recorder.stage(Stage.UPLOAD, total=parcel.artifact.size):
            faults = send_parcel(
                parcel,
                backup,
                copy,
                self._job,
                catalog=self._catalog,
                layout=self._layout,
                recorder=self._recorder,
                open_store=self._open_store,
                keys=self._keys,
            )
            if faults:
                self._take_back(backup, copy, before)
                raise faults[0]
            self._recorder.detail(f"{parcel.artifact.name} is at {copy.destination}, and was read back")

    def _take_back(self, backup: Backup, copy: Copy, before: Copy | None) -> None:
        """Record what holds after a copy that did not arrive, and leave no file there that nobody would look for."""
        assert backup.manifest is not None
        if before is None and copy.key == backup.manifest.stored_elsewhere.name:
            return
        if before is not None:
            self._catalog.save_copy(before)
        else:
            self._catalog.forget_copy(backup.id, copy.destination)
        if before is None or before.key != copy.key:
            destination = next(item for item in self._job.destinations if item.name == copy.destination)
            with contextlib.suppress(BackupdError), contextlib.closing(self._open_store(destination)) as store:
                store.delete(copy.key)

    def _look(self, backup: Backup, good: Copy) -> None:
        """Read back the copy that is there already, where another is to go for it; raises as `read_back`."""
        assert backup.manifest is not None
        with self._recorder.stage(Stage.UPLOAD, total=good.size if self._order.move else 0):
            told = f"{good.destination} has it already, encrypted as now"
            if not self._order.move:
                self._recorder.detail(told)
                return
            destination = next(item for item in self._job.destinations if item.name == good.destination)
            with contextlib.closing(self._open_store(destination)) as store:
                read_back(store, backup.manifest.at(good.key).artifact, self._recorder.progress)
            now = self._recorder.clock.now()
            proven = msgspec.structs.replace(good, state=CopyState.VERIFIED, updated=now, proof=Proof.READ)
            self._catalog.save_copy(proven)
            self._recorder.detail(f"{told}, and was read back")

    def _let_go(self, backup: Backup, good: Copy | None, parcel: Parcel | None) -> list[BackupdError]:
        """Delete what the proven copy takes the place of; returns the faults: then both are there."""
        faults: list[BackupdError] = []
        destinations = {destination.name: destination for destination in self._job.destinations}
        try:
            if good is not None and parcel is not None and good.key != parcel.artifact.name:
                with contextlib.closing(self._open_store(destinations[good.destination])) as store:
                    store.delete(f"{good.key}{MANIFEST_SUFFIX}")
                    store.delete(good.key)
            if self._order.move:
                self._drop(backup, self._order.source)
        except BackupdError as error:
            self._recorder.warn(f"the old copy of {backup.id} could not be deleted: {error.message}", error)
            faults.append(error)
        return faults

    def _drop(self, backup: Backup, source: str) -> None:
        """Delete the copy that was moved, now that the catalog knows the new one to be good."""
        now = self._catalog.backup(backup.id)
        there = [one for one in now.copies if one.destination == self._order.destination] if now is not None else []
        assert any(one.state is CopyState.VERIFIED for one in there), "the new copy is proven"
        with contextlib.ExitStack() as stack:
            store = None
            if source != LOCAL:
                destination = next(item for item in self._job.destinations if item.name == source)
                store = stack.enter_context(self._open_store(destination))
            delete_copy(self._catalog, self._layout, backup.id, source, store)
        self._recorder.reporter.message("info", f"{backup.id} was deleted at {source}: it was moved")

    def _clear(self, name: str) -> None:
        """Leave nothing in the outbox that waits for nobody."""
        discard(name, self._layout, self._catalog)


def _plain_of(artifact: Artifact) -> Artifact:
    """Describe an artifact as it was before it was encrypted."""
    seal = artifact.seal
    if seal is None:
        return artifact
    return msgspec.structs.replace(
        artifact,
        name=plain_name(artifact.name),
        size=seal.plain_size,
        sha256=seal.plain_sha256,
        encryption="none",
        seal=None,
    )
