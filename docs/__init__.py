"""The documents, which `make docs` builds; reference/generate.py writes those that follow from the code."""
