"""Checkpoints in, shards out; architectures as data; adapters as sources.

Map: `weights` (safetensors files, memory-mapped) · `checkpoint` (a model's directory) · `content` (what names weights:
their hash) · `architecture` (which tensor plays which part; families as data) · `adapter` (PEFT LoRA) · `product` (B·A,
the same bytes everywhere) · `source` (a model that is merged, seen from its base) · `stream` (tensors in, shards out) ·
`hub` (where a model lies) · `finite` (NaN and infinity found early).
"""
