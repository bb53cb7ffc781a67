"""What training, data commands and quantisation take, in time and memory; training beside TRL."""
