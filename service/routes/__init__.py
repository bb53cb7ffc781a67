"""HTTP routes: each parses a request, calls the use case and words the answer. Rules about questions are elsewhere."""
