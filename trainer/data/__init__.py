"""Questions and answers about images, read from files; knows nothing of models."""
