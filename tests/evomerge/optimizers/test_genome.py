"""GENOME on coefficients."""

from evomerge.optimizers.genome import GenomeSearch
from evomerge.testing.optimizer import LearningOptimizerContract


class TestContract(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return GenomeSearch(problem, seed=seed, population=6)
