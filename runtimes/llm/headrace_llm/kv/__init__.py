"""Memory of keys and values: which blocks of the decoder's cache belong to which sequence.

Pure: numbers of blocks only. Two layouts implement `KVCache`: `paged` (blocks that sequences share by reference counts)
and `slots` (one contiguous block per sequence).
"""
