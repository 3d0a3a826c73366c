"""The commands of docs/install.md, as they stand there, and what becomes of them on a host."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from typing import Final

from tests.servers.tools import PROJECT
from tests.system.container import Done
from tests.system.host import Host

__all__ = ["PAGE", "block", "make_replica_set", "marked", "paste", "unmarked"]

PAGE: Final = PROJECT / "docs" / "install.md"
_MARKED: Final = re.compile(
    r"^(?P<indent> *)<!-- test: (?P<name>[\w-]+) -->\n(?P=indent)```\w+\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_SHELL: Final = re.compile(
    r"(?P<before>[^\n]*)\n(?P<indent> *)```sh\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


def marked() -> dict[str, str]:
    """Return the blocks behind a mark ``<!-- test: NAME -->``, by their names."""
    found = [(match["name"], textwrap.dedent(match["text"])) for match in _MARKED.finditer(_text())]
    assert len(dict(found)) == len(found), "a name is there twice"
    return dict(found)


def unmarked() -> list[str]:
    """Return the blocks of shell commands that have no mark."""
    blocks = (match for match in _SHELL.finditer(_text()) if "<!-- test: " not in match["before"])
    return [textwrap.dedent(match["text"]) for match in blocks]


def block(name: str) -> str:
    """Return the block with this mark."""
    return marked()[name]


def paste(host: Host, name: str, *, stdin: str = "", instead: Mapping[str, str] | None = None) -> Done:
    """Run the block with this mark on a host as root, with a shell that stops at the first failure.

    ``stdin`` is what is typed into the one command that reads it. ``instead`` has other lines for some of the block,
    by how those begin.
    """
    lines = block(name).splitlines()
    for begin, other in (instead or {}).items():
        (at,) = [at for at, line in enumerate(lines) if line.startswith(begin)]
        lines[at] = other
    script = "\n".join(["set -e", *lines])
    return host.run(script, stdin=stdin, timeout=120, env={"DEBIAN_FRONTEND": "noninteractive"})


def make_replica_set(host: Host) -> None:
    """Make the host's MongoDB a set of one node, as the page says; mongosh is not on it, so its line is done for it."""
    host.run("cat >> /etc/mongod.conf", stdin=block("replica-conf"))
    restart, _, line = block("replica-start").partition("\n")
    host.run(restart)
    found = re.search(r"rs\.initiate\((.*)\)'", line)
    assert found is not None, line
    with host.mongo() as client:
        client.admin.command({"replSetInitiate": json.loads(re.sub(r"(\w+): ", r'"\1": ', found[1]))})
    host.wait_mongod()


def _text() -> str:
    return PAGE.read_text(encoding="utf-8")
