"""Decoding pictures: time, memory, and whether answers stay the same."""
