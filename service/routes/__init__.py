"""HTTP routes: each parses a request, calls the use case and words the answer. Knows no rule beyond that."""
