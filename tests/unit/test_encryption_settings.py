"""What the host file says about encryption: of all jobs, of one, what is refused, and what is only warned of."""

from __future__ import annotations

import pytest

from nanumpay_backupd.settings.merge import build_jobs
from nanumpay_backupd.settings.schema import (
    AppFtp,
    AppSettings,
    JobSpec,
    Paths,
    RunSpec,
    decode_spec,
    encode_spec,
    to_public,
)
from tests.unit.test_hostfile import parse, refusal


def test_encryption_of_all_jobs_and_of_one() -> None:
    """A job that says nothing is encrypted as all are; one with a method of its own only as it says."""
    config = parse(
        """
        [encryption]
        method = "openpgp"
        passphrase = "that of everything else"
        decrypt_with = ["that of last year"]
        [[job]]
        name = "shop"
        [[job]]
        name = "plain"
        encryption = { method = "none" }
        [[job]]
        name = "other"
        [job.encryption]
        method = "age"
        recipients = ["%s", "/etc/nanumpay/people.txt"]
        scope = "remote"
        decrypt_with = "that of the other"
        """
        % ("age1" + "q" * 58)
    )
    app, shop, plain, other = build_jobs(config, None)
    assert [job.encryption.method for job in (app, shop, plain, other)] == ["openpgp", "openpgp", "none", "age"]
    assert [job.encryption.scope for job in (app, shop, plain, other)] == ["remote", "all", "all", "remote"]
    assert not other.encryption.passphrase
    assert not shop.encryption.recipients
    keys = [key.reveal() for key in other.encryption.decrypt_with]
    assert keys == ["that of the other", "that of last year", "that of everything else"]
    assert [key.reveal() for key in plain.encryption.decrypt_with] == ["that of last year", "that of everything else"]
    assert "that of" not in repr(config)
    assert decode_spec(encode_spec(run_spec(other))).job == other
    assert "that of" not in repr(to_public(other))


def run_spec(job: JobSpec) -> RunSpec:
    """Return the specification of some run of a job."""
    return RunSpec(run="r", job=job, paths=Paths(), trigger="manual")


@pytest.mark.parametrize(
    "text,path,fix",
    [
        ('method = "pgp"', "encryption.method", "openpgp"),
        ('method = "openpgp"', "encryption", "either passphrase or recipients"),
        (
            'method = "openpgp"\npassphrase = "long enough to be one"\nrecipients = ["/k"]',
            "encryption",
            "either passphrase or recipients",
        ),
        ('passphrase = "long enough to be one"', "encryption.passphrase", "method"),
        ('method = "none"\nrecipients = ["/k"]', "encryption.recipients", "method"),
        ('method = "openpgp"\npassphrase = "short"', "encryption.passphrase", "openssl rand"),
        ('method = "openpgp"\npassphrase = "two\\nlines of words"', "encryption.passphrase", "single line"),
        ('method = "openpgp"\nrecipients = ["age1qqqq"]', "encryption.recipients", "gpg --armor --export"),
        ('method = "age"\nrecipients = ["somebody"]', "encryption.recipients", "absolute paths"),
        ('method = "age"\nrecipients = []', "encryption", "either passphrase or recipients"),
        ('method = "age"\nrecipients = ["AGE-SECRET-KEY-1QQQ"]', "encryption.recipients", "away from this host"),
        ('decrypt_with = ["age1qqqq"]', "encryption.decrypt_with", "private key"),
        ('decrypt_with = ["-----BEGIN PGP PUBLIC KEY BLOCK-----"]', "encryption.decrypt_with", "private key"),
        ('decrypt_with = ["a\\nb"]', "encryption.decrypt_with", "age-keygen"),
        ('decrypt_with = [{ credential = "nowhere" }]', "encryption.decrypt_with", "LoadCredential"),
        ('scope = "local"', "encryption.scope", '"all"'),
        ('passphras = "x"', "encryption.passphras", "passphrase"),
    ],
)
def test_encryption_that_cannot_be_is_refused(text: str, path: str, fix: str) -> None:
    """What does not fit together is named with its path and the fix, for all jobs, one job and the application's."""
    for table in ("encryption", "nanumpay.encryption", "job.encryption"):
        head = '[[job]]\nname = "shop"\n' if table.startswith("job") else ""
        error = refusal(f"{head}[{table}]\n{text}")
        wanted = path.replace("encryption", {"job.encryption": "job.shop.encryption"}.get(table, table), 1)
        assert error.message.startswith(f"host.toml: {wanted}"), error.message
        assert fix in error.hint, error.hint
        assert "long enough" not in error.message
        assert "more:" not in error.message, "what follows from the first problem is no problem of its own"


def test_what_encryption_hides_is_told() -> None:
    """Settings that break the application, or encrypt nothing, are legal and warned of; the default is neither."""

    def warnings(text: str, app: AppSettings | None) -> str:
        lines = f'[encryption]\nmethod = "openpgp"\npassphrase = "long enough to be one"\n{text}'
        return " ".join(build_jobs(parse(lines), app)[0].warnings)

    with_place = AppSettings(storage="ftp", ftp=AppFtp(host="ftp.example.com"))
    assert warnings("", with_place) == ""
    assert warnings("", None) == ""
    assert "nothing is encrypted" in warnings("", AppSettings(storage="none"))
    assert "hides the backups from the application" in warnings('scope = "all"', with_place)
    only = parse('[[job]]\nname = "shop"\n[job.encryption]\nmethod = "openpgp"\nrecipients = ["/k"]\nscope = "remote"')
    assert "nothing is encrypted" in " ".join(build_jobs(only, None)[1].warnings)
