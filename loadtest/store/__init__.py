"""Stores of many adapters, on disk and on S3, and adapters swapped under load."""
