"""One module per command: `configure(parser)` adds its arguments, `run(arguments)` returns its exit code."""
