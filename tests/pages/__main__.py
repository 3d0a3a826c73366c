"""``python -m tests.pages`` writes the completions and the generated parts of the man pages; `make man` calls it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nanumpay_backupd.cli.completion import FOLDER, file_name
from tests.pages import bash, fish, zsh
from tests.pages.keys import fill
from tests.pages.programs import PROGRAMS
from tests.servers.tools import PROJECT

KEYS = PROJECT / "docs" / "man" / "backupd.toml.5"


def written() -> Iterator[tuple[Path, str]]:
    """Yield every file and what must be in it."""
    for program in PROGRAMS.values():
        for shell, writer in (("bash", bash), ("zsh", zsh), ("fish", fish)):
            yield FOLDER / file_name(shell, program.name), writer.completion(program)
    yield KEYS, fill(KEYS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for path, text in written():
        path.write_text(text, encoding="utf-8")
