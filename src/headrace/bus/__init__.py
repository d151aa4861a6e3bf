"""The descriptor bus: 64-byte frames between endpoints of a node, and between nodes.

A frame names an object of the store (key, offset, length); payloads never travel on the bus. `endpoint` is the module
for users; `transport` has the three ways in which an endpoint is connected; `router` is the user-space switch that the
node agent runs.
"""
