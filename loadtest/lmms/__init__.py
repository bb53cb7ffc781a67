"""lmms-eval, a public evaluation tool, asks the service; what it scores is compared with what the trainer scores."""
