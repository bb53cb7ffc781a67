"""The service: start, accuracy over HTTP, fairness, hostile bodies, the true size, and the fake engine behind it."""
