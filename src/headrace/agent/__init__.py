"""The connection of a process to its node's agent: a Unix socket, its messages and its errors."""
