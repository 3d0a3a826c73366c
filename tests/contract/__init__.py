"""One suite per base class, run against every implementation of it."""
