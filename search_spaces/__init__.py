"""Genomes to recipes and back. A search space never sees a score."""
