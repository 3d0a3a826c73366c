"""When the catalog counts as lost, and that what is then to be learnt is not forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.pipeline.afresh import is_gone, is_owed, owe, settle
from nanumpay_backupd.pipeline.layout import Layout


@pytest.mark.parametrize("catalog", ["whole", "empty", "none"])
@pytest.mark.parametrize("manifests", [True, False])
def test_when_a_catalog_is_gone(tmp_path: Path, catalog: str, *, manifests: bool) -> None:
    """Without one, or with one of no bytes, where there are manifests; a new host has lost nothing."""
    layout = Layout(tmp_path / "backups")
    if manifests:
        layout.manifests.mkdir(parents=True)
        (layout.manifests / "nanumpay-backup-2026-11-21T02-00-00.json").write_text("{}")
    if catalog == "whole":
        Catalog(tmp_path / "catalog.db").close()
    elif catalog == "empty":
        (tmp_path / "catalog.db").touch()
    assert is_gone(tmp_path, layout) == (manifests and catalog != "whole")


def test_what_is_owed_stays_owed(tmp_path: Path) -> None:
    """It is owed once it was said, said twice or not, until it is settled."""
    assert not is_owed(tmp_path)
    owe(tmp_path)
    owe(tmp_path)
    assert is_owed(tmp_path)
    settle(tmp_path)
    settle(tmp_path)
    assert not is_owed(tmp_path)
