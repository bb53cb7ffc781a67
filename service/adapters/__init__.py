"""Adapters as files: what a version is, where it lies, whether it may be served. The trainer imports this too."""
