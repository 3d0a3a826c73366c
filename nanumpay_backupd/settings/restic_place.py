"""A restic repository written as one word, ``restic:REPOSITORY``; its secrets come by the variables that restic knows.

What other places are written as is next door (`place`). No secret is ever shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from nanumpay_backupd.errors import ConfigError
from nanumpay_backupd.settings.destinations import ResticDestination, has_login
from nanumpay_backupd.settings.kinds import Place
from nanumpay_backupd.settings.options import DESTINATIONS
from nanumpay_backupd.settings.problems import Mismatch
from nanumpay_backupd.settings.restic_kinds import Repository
from nanumpay_backupd.system.secrets import Secret, read_secret

__all__ = ["RESTIC", "read_repository"]

RESTIC: Final = "restic:"
"""Begins such a word."""
_USERNAME, _PASSWORD = "RESTIC_REST_USERNAME", "RESTIC_REST_PASSWORD"
_LOGINS: Final = ("AWS_", "AZURE_", "GOOGLE_", "B2_", "OS_", "ST_", "RCLONE_", "SSH_AUTH_SOCK")
"""What the names of the variables begin with by which restic and rclone log in."""
_SAYABLE: Final = ("path", "program", "cache", "ca_file", "timeout")
"""What may stand behind the question mark, as in the host file."""


def read_repository(word: str, environ: Mapping[str, str]) -> ResticDestination:
    """Return the destination that ``word`` stands for, perhaps with ``?path=/folder``; raises ConfigError."""
    repository, _, query = word.removeprefix(RESTIC).partition("?")
    if has_login(repository):
        raise ConfigError(
            "the place restic:… has a login in it, which could be read by everyone on this host",
            hint=f"write the address without it; set {_USERNAME} and {_PASSWORD}",
        )
    try:
        Repository().parse(repository, Place("repository"))
    except Mismatch:
        raise ConfigError(
            "the place restic:… names no repository", hint="write restic:/srv/repository, restic:s3:https://HOST/BUCKET"
        ) from None
    file, password = environ.get("RESTIC_PASSWORD_FILE", ""), environ.get("RESTIC_PASSWORD", "")
    if not (file or password):
        raise ConfigError(
            f"there is no password for the repository {repository}", hint="set RESTIC_PASSWORD or RESTIC_PASSWORD_FILE"
        )
    return ResticDestination(
        name=f"{RESTIC}{repository}",
        repository=repository,
        password=Secret(password) if password else read_secret({"file": file}, "RESTIC_PASSWORD_FILE"),
        rest_username=environ.get(_USERNAME, ""),
        rest_password=Secret(environ.get(_PASSWORD, "")),
        variables=tuple((name, Secret(text)) for name, text in environ.items() if name.startswith(_LOGINS)),
        **_more(query),
    )


def _more(query: str) -> dict[str, Any]:
    """Read what stands behind ``?``."""
    options = {option.key: option for option in DESTINATIONS["restic"].options if option.key in _SAYABLE}
    values: dict[str, Any] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in options:
            # The key itself is not shown: what stands there may have been meant as another part of the word.
            raise ConfigError(
                "the place restic:… has something behind the ? that cannot be said there",
                hint=f"known there: {', '.join(_SAYABLE)}",
            )
        try:
            values[options[key].target] = options[key].kind.parse(text, Place(key))
        except Mismatch as mismatch:
            raise ConfigError(f"{key} {mismatch.reason}", hint=mismatch.fix) from None
    return values
