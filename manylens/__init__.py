"""The command `manylens` of an installed wheel: the service and the trainer under one name."""
