"""Measurements, each a command with a make target.

bench    Manylens side by side with what people would use instead
load     the service alone: scenarios, growth curves, other people's tools, a fleet on paper
service  start, accuracy over HTTP, fairness, hostile bodies, the true size
store    many adapters, swapped under load
images   decoding
trainer  training, data commands, quantisation
gpu      the recipe for a machine with a GPU

What they share lies here: the client, requests as servers take them (faces), pictures, servers as processes.
"""
