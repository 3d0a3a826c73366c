"""A soak: the daemon under load and faults for hours, with restores compared meanwhile (`make soak`)."""
