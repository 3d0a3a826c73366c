"""The demo behind ``make demo``: one backup from saved settings to restored data. Shown to people, run by a test."""
