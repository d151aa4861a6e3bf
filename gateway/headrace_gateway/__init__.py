"""The gateway: one endpoint for every model. It queues a request until a replica has capacity, then forwards it.

`inference` is the path of a request, `table` holds routes, keys and replicas, `link` receives them from NATS,
`upstream` is the HTTP client of replicas, `control` serves everything that is not inference.
"""
