"""Checkpoints in, shards out; architectures as data; adapters as sources."""
