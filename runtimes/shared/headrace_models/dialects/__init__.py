"""How models write tool calls and reasoning: one file per format, and what all formats share.

To add a format: a file with a `CallFormat` record, and its line in `registry`.
"""
