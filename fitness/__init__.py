"""Eval sets, scoring, subsets and estimates. Fitness never sees a genome."""
