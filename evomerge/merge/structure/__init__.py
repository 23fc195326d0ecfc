"""Smaller models from one checkpoint: experts of a mixture merged or pruned, neighbouring layers fused.

`usage` watches a model on a user's items, `grouping` decides which experts belong together, `combining` makes one of
several, `layers` fuses layers, `compress` puts these together, and `directory` writes what comes out.
"""
