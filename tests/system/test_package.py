"""The package on a host with the application and the old program: takeover, upgrade, removal, purge, and back again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import MakeHost
from tests.system.container import wait_for
from tests.system.host import SERVICE, Host, without_place
from tests.system.packages import OLD_VERSION, SHIM, application
