"""Writes what is written from parsers and tables: completions, the keys in backupd.toml.5. No part of the product."""
