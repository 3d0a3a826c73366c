"""The package on a booted Debian 12: nothing of the project but the .deb, a real systemd, a real mongod (`make test-system`)."""
