"""Helpers that start the real servers the tests talk to."""
