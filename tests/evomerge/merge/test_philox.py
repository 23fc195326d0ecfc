"""Random numbers by entry: the published answers, and the same whatever is asked for at a time."""

from __future__ import annotations

import pytest
import torch

from evomerge.merge.primitives import philox

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**128 - 1, -1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x03707344_13198A2E_299F31D0_A4093822,
            0x85A308D3_243F6A88 - 2**64,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_answers_are_those_of_the_random123_distribution(key: int, counter: int, expected: tuple[int, ...]) -> None:
    """Its file `kat_vectors`, philox4x32 with 10 rounds; the counter's upper half is the key's here."""
    assert tuple(int(word[0]) for word in philox.words(key, torch.tensor([counter]))) == expected


def test_every_word_of_every_counter_is_one_entrys() -> None:
    (_, found), *_ = philox.numbers(11, 3 * philox.GROUP, philox.GROUP, CPU)
    expected = philox.words(11, torch.arange(3 * philox.LANES, 4 * philox.LANES))

    assert torch.equal(found, torch.cat(expected))
    assert found.unique().numel() == philox.GROUP


@pytest.mark.parametrize("offset", [0, 1, 63, 64, 2**18 - 5, 2**40 + 17])
def test_entries_have_the_same_numbers_in_whatever_parts(offset: int) -> None:
    length = 2**18 + 70  # more than are made at a time
    parts = list(philox.numbers(5, offset, length, CPU))
    tail = torch.cat([found for _, found in philox.numbers(5, offset + 65, length - 65, CPU)])

    assert len(parts) > 1
    assert [part.start for part, _ in parts[1:]] == [part.stop for part, _ in parts[:-1]]
    assert parts[0][0].start == 0
    assert parts[-1][0].stop == length
    assert torch.equal(torch.cat([found for _, found in parts])[65:], tail)


def test_every_bit_is_as_often_set_as_not_and_neighbours_are_independent() -> None:
    number = 2**18
    (_, found), *_ = philox.numbers(9, 0, number, CPU)
    bits = found.unsqueeze(1) >> torch.arange(32) & 1
    signs = 2.0 * bits.double() - 1
    bound = 5 / number**0.5

    assert signs.mean(dim=0).abs().max() < bound
    for lag in (1, 4, philox.LANES, philox.GROUP):
        assert (signs[lag:] * signs[:-lag]).mean(dim=0).abs().max() < 1.01 * bound


def test_no_numbers_are_no_numbers() -> None:
    assert list(philox.numbers(1, 64, 0, CPU)) == []
