"""NATS subjects and the typed messages on them: the only channel between components for work."""
