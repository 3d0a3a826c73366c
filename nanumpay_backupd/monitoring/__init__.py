"""What is said of jobs and places: what is kept of looks (`memory`), the checks (`judging`), the faults (`faults`)."""
