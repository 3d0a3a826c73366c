"""The package on a booted Debian 12: the .deb, a real systemd, a real mongod (`make test-system`)."""
