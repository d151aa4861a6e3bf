"""NATS subjects and the typed messages on them: the only way in which components talk about work."""
