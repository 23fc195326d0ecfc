"""COMO-CMA-ES: the contract, what makes several kernels one search, fronts that are known."""

from evomerge.optimizers.mo_cma import ComoCmaEs
from evomerge.testing.optimizer import LearningOptimizerContract


class TestContract(LearningOptimizerContract):
    num_objectives = 2

    def make(self, problem, *, seed):
        return ComoCmaEs(problem, seed=seed, population=4, kernels=2)


class TestContractWithThreeObjectives(TestContract):
    num_objectives = 3


class TestContractWithOneObjective(TestContract):
    num_objectives = 1

    def make(self, problem, *, seed):
        return ComoCmaEs(problem, seed=seed, population=4)
