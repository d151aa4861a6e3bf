"""The broker: a NATS server with a user for each role and for each admitted namespace."""
