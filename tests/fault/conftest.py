"""What the suites that fork workers under strace share: a disk in memory, and the process that forks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.fault.workers import Stable, stable
from tests.workbench import small_disk

_SIZE: Final = 512 << 20


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk in memory: a fsync that is waited for says nothing there, a power cut is another test's matter."""
    with small_disk(tmp_path_factory.mktemp("fault") / "disk", _SIZE) as folder:
        yield folder


@pytest.fixture(scope="module")
def workers(disk: Path) -> Iterator[Stable]:
    """The process that forks."""
    with stable(disk) as running:
        yield running
