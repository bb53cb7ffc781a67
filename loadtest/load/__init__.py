"""Load on our service alone: scenarios, an open-loop generator, growth curves, and a Locust file for exploring."""
