"""Tests that need a booted system or the network of one."""
