"""A file for each command: its options go in, and what it wrote or found comes out."""
