"""Repositories of restic for tests, whose key costs a millisecond instead of half a second."""

from __future__ import annotations

import atexit
import base64
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from nanumpay_backupd.settings.destinations import ResticDestination
from nanumpay_backupd.system.secrets import Secret

__all__ = ["PASSWORD", "Repository"]

PASSWORD: Final = "Geheim+für%Restic"
_CHEAP: Final = {"N": 2, "r": 1, "p": 1}


@dataclass(frozen=True)
class Repository:
    """One repository. ``folder`` is where its files really lie, ``login`` what its server asks for."""

    name: str
    folder: Path
    login: dict[str, Any] = field(default_factory=dict)

    def create(self) -> None:
        """Make it out of the one that is made once for all, whose password is cheap to try."""
        _template().twin(self.folder)

    def init(self) -> None:
        """Make it by restic itself, and its password cheap."""
        self.run("init")
        (path,) = (self.folder / "keys").iterdir()
        data = _cheapened(json.loads(path.read_bytes()), PASSWORD.encode())
        path.unlink()
        path.with_name(hashlib.sha256(data).hexdigest()).write_bytes(data)

    def twin(self, folder: Path) -> Repository:
        """Make another one with the same key, empty: that takes no time."""
        folder.mkdir(parents=True)
        for name in ("config", "keys"):
            source = self.folder / name
            shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
        return Repository(str(folder), folder)

    def run(self, *args: str, given: bytes = b"", check: bool = True) -> bytes:
        """Run restic by its own means; returns what it wrote."""
        environment = {
            "PATH": os.environ["PATH"],
            "RESTIC_REPOSITORY": str(self.folder),
            "RESTIC_PASSWORD": PASSWORD,
        }
        done = subprocess.run(
            ["restic", "--no-cache", *args], env=environment, input=given, capture_output=True, check=False
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done.stdout

    def snapshots(self) -> list[dict[str, Any]]:
        """Return what restic lists."""
        return json.loads(self.run("snapshots", "--json", "--no-lock")) or []

    def put(self, path: str, data: bytes) -> None:
        """Make a snapshot of one file, as somebody else would."""
        self.run("backup", "--stdin", f"--stdin-filename={path}", "--quiet", given=data)

    @property
    def stored(self) -> int:
        """Return the bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def packs(self) -> list[Path]:
        """Return the files of its data, the largest first."""
        found = [path for path in (self.folder / "data").rglob("*") if path.is_file()]
        return sorted(found, key=lambda path: -path.stat().st_size)

    def destination(self, **changes: Any) -> ResticDestination:
        """Return settings that reach it; ``changes`` replace single ones."""
        settings: dict[str, Any] = {
            "name": "vault",
            "repository": self.name,
            "password": Secret(PASSWORD),
            "timeout": 10.0,
            **self.login,
        }
        return ResticDestination(**{**settings, **changes})


@functools.cache
def _template() -> Repository:
    folder = Path(tempfile.mkdtemp(prefix="restic-")) / "vault"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    made = Repository(str(folder), folder)
    made.init()
    return made


def _cheapened(key: dict[str, Any], password: bytes) -> bytes:
    """Encrypt the master key in a key's file anew, by the same password with the least work (restic's design.rst)."""
    salt = base64.b64decode(key["salt"])
    sealed = base64.b64decode(key["data"])
    master = _counter(_derived(password, salt, key["N"], key["r"], key["p"])[:32], sealed[:16], sealed[16:-16])
    new = _derived(password, salt, **{name.lower() if name == "N" else name: value for name, value in _CHEAP.items()})
    nonce = os.urandom(16)
    body = _counter(new[:32], nonce, master)
    block = Cipher(algorithms.AES(new[32:48]), modes.ECB()).encryptor().update(nonce)
    mac = Poly1305.generate_tag(new[48:64] + block, body)
    return json.dumps({**key, **_CHEAP, "data": base64.b64encode(nonce + body + mac).decode()}).encode()


def _derived(password: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=1 << 30, dklen=64)


def _counter(key: bytes, nonce: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor().update(data)
