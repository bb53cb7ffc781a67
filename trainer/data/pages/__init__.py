"""HTML pages that need nothing else: the templates, and pictures within them."""
