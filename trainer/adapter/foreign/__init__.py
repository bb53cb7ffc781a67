"""Adapters that other tools made: where their files lie, what the files hold, and what their names mean.

Knows the habits of PEFT, unsloth, LLaMA-Factory, ms-swift, LLaVA's own trainer and of what wraps a model while it is
trained; docs/how-to/foreign-adapters.md has them in a table. `trainer/adapter/convert.py` makes PEFT's two files of
what is found.
"""
