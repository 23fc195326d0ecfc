"""NSGA-II and NSGA-III: the contract, survival restated by brute force, mixed genes, fronts that are known."""

from evomerge.optimizers.nsga import Nsga2, Nsga3
from evomerge.testing.optimizer import LearningOptimizerContract


class TestContract(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return Nsga2(problem, seed=seed, population=6)


class TestContractWithTwoObjectives(TestContract):
    num_objectives = 2


class TestContractOfDirections(LearningOptimizerContract):
    num_objectives = 3

    def make(self, problem, *, seed):
        return Nsga3(problem, seed=seed, population=6)


class TestContractOfDirectionsWithOneObjective(TestContractOfDirections):
    num_objectives = 1
