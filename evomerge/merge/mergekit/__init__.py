"""mergekit's YAML, both ways: `read` (import) and `write` (export), for mergekit 0.1.5.

Map: `methods` (which of its methods and parameters is which of ours) · `config` (its YAML as values) · `settings` (a
parameter's value at a tensor, as mergekit reads filters and gradients) · `shape` (the tensors that filters are matched
against) · `tables` (values of all tensors as a recipe's parameters and rules) · `read` · `references` (places of
models) · `write`.
"""
