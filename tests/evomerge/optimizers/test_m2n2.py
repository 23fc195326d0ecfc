"""M2N2: both contracts, and what its state and its options promise."""

from evomerge.optimizers.m2n2 import M2n2
from evomerge.testing.lineage import LineageContract
from evomerge.testing.optimizer import LearningOptimizerContract


class TestContractOnGenomes(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return M2n2(problem, seed=seed, population=4, epoch=9)


class TestContractOnGenomesWithTwoObjectives(TestContractOnGenomes):
    num_objectives = 2


class TestContractOnLineages(LineageContract):
    def make(self, problem, *, seed):
        return M2n2(problem, seed=seed, population=6)


class TestContractOnLineagesWithNewItemsAndTwoObjectives(LineageContract):
    num_objectives = 2

    def make(self, problem, *, seed):
        return M2n2(problem, seed=seed, population=5, epoch=7, mutation=0.01)
