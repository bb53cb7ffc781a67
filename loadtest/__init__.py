"""Measurements, each a command with a make target.

bench    Manylens side by side with what people would use instead
load     the service alone: scenarios, growth curves, other people's tools, a simulated fleet
service  start, accuracy over HTTP, fairness, hostile bodies, LLaVA-1.5's true size
store    many adapters, swapped under load
images   decoding
trainer  training, data commands, quantisation
lmms     lmms-eval's scores of a served adapter beside the trainer's
gpu      the recipe for a machine with a GPU

What they share is in this folder: the HTTP client, requests in each server's form (faces), pictures, and servers as
processes.
"""
