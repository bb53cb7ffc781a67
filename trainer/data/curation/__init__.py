"""Curation: rows scored, balanced and made by a vision model; and what users add to it."""
