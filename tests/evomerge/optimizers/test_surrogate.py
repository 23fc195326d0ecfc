"""MAP's quadratic surrogates."""

from evomerge.optimizers.surrogate import MapSearch
from evomerge.testing.optimizer import LearningOptimizerContract


class TestContract(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return MapSearch(problem, seed=seed, design=12, batch=20)


class TestContractWithTwoObjectives(TestContract):
    num_objectives = 2
