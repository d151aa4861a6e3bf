"""The node agent: one process per node that serves the pods of its node over Unix sockets.

`server` accepts sessions and dispatches their messages; `store` keeps shared-memory objects. The client side is in the
core: `headrace.agent` is the connection, `headrace.store` the object store.
"""
