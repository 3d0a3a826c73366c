"""Hosts with a network of their own on this machine: each a network namespace on a common bridge, which can be cut off.

Needs root and iproute2; `available` says whether that is so.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.servers.mongod import ReplicaSet, _Member

__all__ = ["Net", "NetMongod", "available", "open_net", "start_set"]

_PORT = 27017


def available() -> bool:
    """Tell whether namespaces can be made here."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"nbp{secrets.token_hex(2)}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return done.returncode == 0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Net:
    """A bridge, and hosts on it by their names. Made by `open_net`."""

    def __init__(self, names: Sequence[str]) -> None:
        tag = secrets.token_hex(2)
        self._bridge = f"nb{tag}"
        self._prefix = f"10.{64 + int(tag[:2], 16) % 128}.{int(tag[2:4], 16)}"
        self._names = {name: f"nb{tag}{name}" for name in names}
        self.address = {name: f"{self._prefix}.{at + 10}" for at, name in enumerate(names)}

    def make(self) -> None:
        """Make bridge and hosts."""
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self._prefix}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for name, space in self._names.items():
            _ip("netns", "add", space)
            _ip("link", "add", f"{space}v", "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", f"{space}v", "master", self._bridge, "up")
            _ip("-n", space, "addr", "add", f"{self.address[name]}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")

    def remove(self) -> None:
        """Take all of it away; harmless where it is not there."""
        for space in self._names.values():
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", space)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._bridge)

    def prefix(self, name: str) -> tuple[str, ...]:
        """Return what a command begins with that is to run on a host."""
        return ("ip", "netns", "exec", self._names[name])

    def cut(self, name: str) -> None:
        """Let nothing arrive any more, without a word to anybody."""
        _ip("link", "set", f"{self._names[name]}v", "down")

    def heal(self, name: str) -> None:
        """Let everything arrive again."""
        _ip("link", "set", f"{self._names[name]}v", "up")


class NetMongod(_Member):
    """A member of a replica set on one of the hosts."""

    def __init__(self, dbpath: Path, net: Net, name: str) -> None:
        super().__init__(dbpath, replica_set=True, port=_PORT)
        self.name = name
        self._ip = net.address[name]
        self._prefix = net.prefix(name)

    @property
    def address(self) -> str:
        """Return ``host:port``."""
        return f"{self._ip}:{self.port}"

    def _argv(self) -> list[str]:
        return [*self._prefix, *(word if word != "127.0.0.1" else f"127.0.0.1,{self._ip}" for word in super()._argv())]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self._ip, self.port), timeout=1):
            return True
        return False


@contextlib.contextmanager
def open_net(*names: str) -> Iterator[Net]:
    """Make hosts for the length of a with block."""
    net = Net(names)
    try:
        net.make()
        yield net
    finally:
        net.remove()


@contextlib.contextmanager
def start_set(net: Net, *names: str) -> Iterator[ReplicaSet]:
    """Run a replica set with a member on each of these hosts, with quick elections."""
    folder = Path(tempfile.mkdtemp(prefix="test-mongod-"))
    servers = [NetMongod(folder / name, net, name) for name in names]
    group = ReplicaSet(servers)
    try:
        for server in servers:
            server.start()
        servers[0].initiate(
            {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500},
            [server.address for server in servers[1:]],
        )
        yield group
    finally:
        group.stop()
        shutil.rmtree(folder, ignore_errors=True)
