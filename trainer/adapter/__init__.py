"""Adapters as directories of PEFT's files: found, fitted to a base, made of other tools' files, written as versions."""
