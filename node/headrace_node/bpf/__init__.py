"""eBPF: the redirect program, two loaders for it, and the bpf(2) calls that they share."""
