"""More than one host: which of them makes the jobs that all have in common. Starts no run, speaks no protocol."""
