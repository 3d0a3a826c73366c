"""Tests, the servers they run against, the demo and the benchmark."""
