"""Tests against real servers: mongod, S3, FTP, systemd's notify socket."""
