"""Measurements of the running service: accuracy as served, load, comparisons with peers."""
