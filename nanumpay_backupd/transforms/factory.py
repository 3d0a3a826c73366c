"""From a job's settings to the methods of encryption. A method is imported only when it is asked for."""

from __future__ import annotations

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.settings.schema import JobEncryption
from nanumpay_backupd.transforms.encryption import Encryption

__all__ = ["open_method"]


def open_method(method: str, options: JobEncryption) -> Encryption:
    """Return a method with all the keys that the settings give; it encrypts only where it is the job's own.

    Raises VerifyError for a method that is not known (of a manifest).
    """
    own = method == options.method
    passphrase = options.passphrase if own and options.passphrase else None
    former = (options.passphrase,) if options.passphrase and not own else ()
    recipients = options.recipients if own else ()
    keys = (*former, *options.decrypt_with)
    if method == "openpgp":
        from nanumpay_backupd.transforms.openpgp import OpenPgp

        return OpenPgp(
            passphrase=passphrase, recipients=recipients, keys=keys, gpg=options.gpg, agent=options.gpg_agent
        )
    if method == "age":
        from nanumpay_backupd.transforms.age import Age

        return Age(passphrase=passphrase, recipients=recipients, keys=keys, age=options.age)
    raise VerifyError(f"encrypted as {method!r}, says the manifest, which is not known", code="verify-structure")
