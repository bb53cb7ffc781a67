"""A LLaVA in memory and on disk: its checkpoint, forward pass and INT4 form, and its inputs as forests and features."""
