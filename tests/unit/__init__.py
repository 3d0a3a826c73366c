"""Tests without servers: decisions, formats, messages."""
