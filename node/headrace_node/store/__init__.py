"""The object store's server: sealed objects in shared memory, with quotas, leases and eviction.

`memory` makes and seals segments (memfds), `pool` has them ready, `accounts` counts bytes against quotas, `objects` is
the store itself, `verbs` its interface to clients.
"""
