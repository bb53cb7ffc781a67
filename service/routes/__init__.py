"""HTTP routes: each parses a request, calls the use case and words the answer. No rules about questions are here."""
