"""The gateway: the one door to every model. It holds a request until a replica is there, then moves its bytes.

`inference` is the path of a request, `table` what is known of routes and replicas, `link` how that is learnt on NATS,
`upstream` the HTTP client towards replicas, `control` everything that is not inference.
"""
