"""Samples of known distributions, and their counts."""

import numpy as np

from featurestore.guard.drift.collect import fine_edges
from featurestore.guard.drift.counts import NumberCounts


def counted(values, edges):
    found = NumberCounts.empty(np.asarray(edges, dtype=np.float64))
    found.add(np.asarray(values, dtype=np.float64))
    return found


def exactly(reference, current):
    """Count both value by value."""
    edges = np.unique(np.concatenate([reference, current]))
    return counted(reference, edges), counted(current, edges)


def in_cells(reference, current):
    """Count both in cells of the reference."""
    edges = fine_edges(np.sort(np.asarray(reference, dtype=np.float64)), np.zeros(0))
    return counted(reference, edges), counted(current, edges)


SHAPES = {
    "normal": lambda random, size: random.normal(size=size),
    "skewed": lambda random, size: random.lognormal(sigma=1.5, size=size),
    "even": lambda random, size: random.uniform(-3.0, 9.0, size=size),
    "whole": lambda random, size: random.poisson(3.0, size=size).astype(np.float64),
    "mostly zero": lambda random, size: np.where(random.uniform(size=size) < 0.9, 0.0, random.normal(size=size)),
    "instants": lambda random, size: 1.7e15 + random.uniform(0, 8.64e10, size=size).round(),
}
