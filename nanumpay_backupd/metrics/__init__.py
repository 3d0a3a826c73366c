"""Figures for a monitoring system: what there is, how it is counted, and the two ways to fetch it. Judges nothing."""
