"""Optimizers by name, their options and their state."""

import numpy as np
import pytest

from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.optimizers import OPTIMIZERS, make, restore
from evomerge.optimizers.domain import real
from evomerge.optimizers.optimizer import Optimizer
from evomerge.optimizers.registry import summary
from evomerge.optimizers.state import pack, unpack

START = (0.25, 0.5)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_what_was_made_by_name_is_restored_by_name(name):
    optimizer: Optimizer = make(name, real(START), seed=0)
    optimizer.ask(5)

    assert restore(name, optimizer.state()).ask(4) == optimizer.ask(4)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InvalidInputError, match=r"optimizer.name: got 'cmaes'; expected one of .*cma_es, .*random"):
        make("cmaes", real(START), seed=0)
    with pytest.raises(InvalidInputError, match=r"optimizer.name"):
        restore("cmaes", b"")


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(InvalidInputError, match=r"popsize: got 8; expected one of diagonal, max_fidelity, noise"):
        make("cma_es", real(START), seed=0, popsize=8)


def test_an_option_of_the_wrong_type_says_what_is_allowed():
    with pytest.raises(InvalidInputError, match=r"generation_size: got '4'; expected .*integer"):
        make("random", real(START), seed=0, generation_size="4")


def test_every_optimizer_says_what_it_is_in_a_line():
    for name in OPTIMIZERS:
        assert summary(name).endswith(".")
        assert len(summary(name)) < 120


def test_every_option_is_described():
    for kind in OPTIMIZERS.values():
        assert all(field.description for field in kind.Options.model_fields.values())


def test_a_state_keeps_every_bit():
    floats = np.array([0.1, 1 / 3, 5e-324, -0.0, np.inf])
    head, arrays = unpack("test/1", pack("test/1", {"a": [1, None, "x"], "b": 0.1}, {"floats": floats}))

    assert head == {"a": [1, None, "x"], "b": 0.1}
    assert arrays["floats"].tobytes() == floats.tobytes()
    assert pack("test/1", head, arrays) == pack("test/1", {"b": 0.1, "a": [1, None, "x"]}, {"floats": floats})


def test_a_state_refuses_objects():
    with pytest.raises(ValueError, match=r"pickle|Object arrays"):
        pack("test/1", {}, {"objects": np.array([object()])})


def test_a_state_of_another_version_is_refused_by_name():
    with pytest.raises(EvomergeError, match=r"'test/2', got 'test/1'"):
        unpack("test/2", pack("test/1", {}, {}))
