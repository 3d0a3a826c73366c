"""The fault for a driver whose library is not installed."""

from __future__ import annotations

from typing import ClassVar

import pytest

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.settings.destinations import DestinationSettings
from nanumpay_backupd.stores.extras import needed_extra


class Cloud(DestinationSettings, frozen=True, tag="cloud"):
    """A type whose driver takes a library."""

    extra: ClassVar[str] = "clouds"


class Plain(DestinationSettings, frozen=True, tag="plain"):
    """A type that takes nothing more."""


def test_a_library_that_is_not_installed_is_a_fault_that_says_what_to_install() -> None:
    """The error names destination, type, library and the extra, and no retry is tried."""
    with pytest.raises(StoreError) as caught, needed_extra(Cloud(name="far")):
        raise ModuleNotFoundError("no", name="nephology")
    assert (caught.value.code, caught.value.retryable) == ("extra-missing", False)
    assert "'far'" in caught.value.message
    assert "type cloud takes the library nephology" in caught.value.message
    assert "pip install 'nanumpay-backupd[clouds]'" in caught.value.hint


@pytest.mark.parametrize(
    "settings,name", [(Cloud(name="far"), "nanumpay_backupd.stores.cloud"), (Plain(name="near"), "anything")]
)
def test_a_defect_of_our_own_is_not_taken_for_it(settings: DestinationSettings, name: str) -> None:
    """A module of this program that is missing, or a type without an extra, is no matter of pip."""
    with pytest.raises(ImportError), needed_extra(settings):
        raise ModuleNotFoundError("no", name=name)
