"""The edge to the operating system: files, processes, clock, locks, sd_notify, journal, secrets. No backup logic."""
