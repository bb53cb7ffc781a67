"""HTTP in, HTTP out: parse, call, reply. No rule lives here."""
