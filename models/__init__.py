"""The embedded model and its two adapters, and everything that made them."""
