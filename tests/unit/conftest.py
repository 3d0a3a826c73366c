"""What many tests begin with: an empty backups folder and an empty catalog."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.pipeline.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty backups folder."""
    layout = Layout(tmp_path / "backups")
    layout.create()
    return layout


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog."""
    with Catalog(tmp_path / "state" / "catalog.db") as opened:
        yield opened
