"""What is watched: recording rules, alerts and their tests, dashboards, runbooks, and a Prometheus that reads them."""
