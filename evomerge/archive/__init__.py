"""What a run remembers: Pareto fronts and hypervolume."""
