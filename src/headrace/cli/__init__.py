"""The `headrace` command: a small kubectl for the local instance, and commands that start and stop one.

It imports only the standard library, and PyYAML to read files, so that a command takes well under 0.3 s. Slow modules
(the instance itself) are imported only by the command that needs them.
"""
