"""Particle swarm on coefficients."""

from evomerge.optimizers.swarm import Swarm
from evomerge.testing.optimizer import LearningOptimizerContract


class TestContract(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return Swarm(problem, seed=seed, particles=5)
