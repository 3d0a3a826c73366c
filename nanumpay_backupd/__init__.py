"""nanumpay-backupd: a backup daemon for a payment application's MongoDB. Nothing is imported here on purpose."""

__all__ = ["__version__"]

__version__ = "0.1.0"
