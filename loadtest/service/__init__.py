"""The service: start, accuracy over HTTP, fairness, hostile bodies, LLaVA-1.5's true size; and it on a fake engine."""
