"""The broker of a platform: a NATS server whose users are the roles, and that admits namespaces as they appear."""
