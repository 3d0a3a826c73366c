"""Lets ``python -m nanumpay_backupd.cli`` be ``backupctl``. Nothing else lives here."""

from __future__ import annotations

import sys

from nanumpay_backupd.cli import main

if __name__ == "__main__":
    sys.exit(main())
