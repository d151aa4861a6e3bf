"""The node's object store, as its clients see it: immutable objects in shared memory that outlive processes.

`client.Store` puts and gets objects, `views.Object` maps one without copying. The server is in the node agent.
"""
