"""Large payloads between processes: images, KV spans, model updates.

`receiver.Receiver` takes payloads, `sender.connect` returns a sender to one. Between processes of a node that has an
agent, a payload is written into shared memory that both sides keep mapped, and only its descriptor travels, over the
descriptor bus. Otherwise its bytes travel over TCP, with the same calls; `Sender.path` and `why_not` state which it is.
"""
