"""What a host needs once, when the daemon takes over from the old program: crontab lines out, the backups folder in."""
