"""Six ways to learn from pictures and from text, at about as many trained parameters: `make bench-mixture`."""
