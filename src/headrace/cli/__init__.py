"""The `headrace` command: a small kubectl for the local instance, and what starts and stops one.

It imports the standard library, PyYAML where a file is read, and nothing that takes time: an answer comes in well under
0.3 s. What needs more (the instance itself) is imported by the one command that needs it.
"""
