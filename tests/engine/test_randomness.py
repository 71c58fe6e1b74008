"""Seeds and generators."""

import numpy as np
import pytest
import torch

from xaifast.engine.randomness import generator_of, seed_of


def drawn(**given):
    return torch.rand(5, generator=generator_of("X", **given)).tolist()


def test_a_seed_gives_the_same_numbers_and_another_seed_others():
    expected = torch.rand(5, generator=torch.Generator().manual_seed(7)).tolist()
    assert drawn(seed=7) == expected == drawn(seed=np.int64(7))
    assert drawn(seed=8) != expected


def test_a_seed_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    drawn(seed=7)
    drawn(generator=torch.Generator().manual_seed(3))
    assert torch.equal(state, torch.get_rng_state())


def test_without_either_torch_manual_seed_governs():
    torch.manual_seed(11)
    first, second = drawn(), drawn()
    torch.manual_seed(11)
    assert [drawn(), drawn()] == [first, second]
    assert first != second


def test_a_generator_advances_with_each_call():
    generator = torch.Generator().manual_seed(5)
    first, second = drawn(generator=generator), drawn(generator=generator)
    assert first != second
    assert drawn(generator=torch.Generator().manual_seed(5)) == first


def test_a_generator_of_another_device(device):
    def seeds():
        generator = torch.Generator(device).manual_seed(5)
        return [seed_of("X", generator=generator) for _ in range(3)]

    assert seeds() == seeds()
    assert len(set(seeds())) == 3


def test_seeds_are_int64_and_drawn_from_all_64_bits():
    assert seed_of("X", 2**64 - 1) == -1
    assert seed_of("X", -(2**63)) == -(2**63) == seed_of("X", 2**63)
    drawn_seeds = [seed_of("X") for _ in range(64)]
    assert min(drawn_seeds) < -(2**61) < 2**61 < max(drawn_seeds)


@pytest.mark.parametrize("seed", [1.5, "1", True])
def test_a_seed_must_be_an_int(seed):
    with pytest.raises(TypeError, match="X: seed must be an int; got"):
        seed_of("X", seed)


def test_a_generator_must_be_one():
    with pytest.raises(TypeError, match=r"X: generator must be a torch\.Generator; got 3"):
        seed_of("X", generator=3)


def test_a_seed_has_64_bits():
    with pytest.raises(ValueError, match="X: seed must have 64 bits; got 18446744073709551616"):
        seed_of("X", 2**64)


def test_both_at_once_are_refused():
    with pytest.raises(ValueError, match="X: seed and generator exclude each other; got 1 and a"):
        seed_of("X", 1, torch.Generator())
