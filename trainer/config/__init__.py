"""Every option of every command, declared once as pydantic classes; the command line and its --help come from these."""
