"""Manylens under Ray Serve."""
