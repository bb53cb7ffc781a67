"""The recipe for a machine with a GPU: `loadtest/gpu/run.sh`, from a bare machine to JSON lines and a picture."""
