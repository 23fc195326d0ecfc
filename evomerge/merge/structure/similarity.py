"""How alike the layers of a model are: diffusion maps of their activations, and what those say about each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import digamma

# N tokens, D dimensions of an embedding, L layers

Matrix = NDArray[np.float64]
WIDTH = 8.0
"""σ of the diffusion kernel."""
NORMALISATION = 0.5
"""α of the diffusion kernel: how much the density of tokens counts."""
DIMENSIONS = 2
"""Coordinates of the embedding."""
NEIGHBOURS = 5
"""Of the estimate of mutual information."""
FAR_NEIGHBOURS = 50
"""Of the estimate of entropy."""
TIE = 1e-10
"""Noise that breaks ties, in standard deviations."""


def embed(states_NH: Matrix) -> Matrix:
    """Ranks of the tokens along the diffusion map of their activations: (N × hidden) → (N × D), in [0, 1)."""
    ranks = diffusion_map(states_NH).argsort(0, kind="stable").argsort(0, kind="stable")
    return ranks / len(states_NH)


def diffusion_map(states_NH: Matrix) -> Matrix:
    """The first coordinates of activations under diffusion: (N × hidden) → (N × D).

    Source: Liu et al. 2024, MKA, arXiv:2406.16330, section 3.1, with the kernel exp(−√(distance/σ)) of the authors'
    code.
    """
    squared = (states_NH**2).sum(1)
    distance_NN = np.sqrt(np.abs(squared[:, None] + squared[None] - 2 * states_NH @ states_NH.T))
    np.fill_diagonal(distance_NN, 0.0)
    kernel_NN = np.exp(-np.sqrt(distance_NN / WIDTH))
    density_N = kernel_NN.sum(0)
    kernel_NN /= np.outer(density_N, density_N) ** NORMALISATION
    degree_N = np.sqrt(kernel_NN.sum(0))
    left_NN, _, _ = np.linalg.svd(kernel_NN / np.outer(degree_N, degree_N))
    embedded: Matrix = left_NN[:, 1 : DIMENSIONS + 1] / left_NN[:, :1]
    return embedded


def similarities(embeddings: Sequence[Matrix]) -> Matrix:
    """Normalised pairwise information of every two layers, (L × L): I(i; j) / √(H(i) · H(j)).

    Mutual information is that of the coordinates, two by two, on average. The entropies' estimates may be negative, but
    are not where the tokens spread; where one is 0 or their signs differ, the similarity is 0.
    """
    count = len(embeddings)
    entropies = [entropy(embedding) for embedding in embeddings]
    found = np.zeros((count, count))
    for i in range(count):
        for j in range(i, count):
            pairs = [(x, y) for x in embeddings[i].T for y in embeddings[j].T]
            information = float(np.mean([mutual_information(x, y) for x, y in pairs]))
            product = entropies[i] * entropies[j]
            found[i, j] = found[j, i] = information / np.sqrt(product) if product > 0 else 0.0
    return found


def mutual_information(x_N: NDArray[np.float64], y_N: NDArray[np.float64]) -> float:
    """Of two continuous variables, from nearest neighbours, in nats.

    Source: Kraskov et al. 2004, Estimating mutual information, arXiv:cond-mat/0305641, first estimator; ties, which
    ranks are full of, are broken by noise far below the variables' spread, as the paper advises.
    """
    noise = np.random.default_rng(0)
    scaled = [v / (v.std() or 1.0) + TIE * noise.normal(size=len(v)) for v in (x_N, y_N)]
    both = np.stack(scaled, 1)
    neighbours = min(NEIGHBOURS, len(both) - 1)
    radius = np.nextafter(cKDTree(both).query(both, neighbours + 1, p=np.inf)[0][:, -1], 0)
    total = digamma(len(both)) + digamma(neighbours)
    for values in scaled:
        column = values[:, None]
        inside = cKDTree(column).query_ball_point(column, radius, p=np.inf, return_length=True)
        total -= float(np.mean(digamma(inside)))  # a point is inside its own ball: the formula's count plus one
    return max(0.0, float(total))


def entropy(points_ND: Matrix) -> float:
    """Of a continuous variable from the distance to its k-th neighbour, up to the constant of the authors' code."""
    count, dimensions = points_ND.shape
    neighbours = min(FAR_NEIGHBOURS, count - 1)
    distance_N = cKDTree(points_ND).query(points_ND, neighbours + 1)[0][:, -1]
    return -float(np.mean(np.log(neighbours / (count * distance_N**dimensions))))
