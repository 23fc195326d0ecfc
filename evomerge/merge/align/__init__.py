"""Alignment: a source's units in the base's order.

`groups` says which entries of which tensors belong to a unit, `maps` moves units, `matching` finds the best map for
given similarities or distances, `align` walks a pair of models, `activations` collects what cost `activations` needs,
`names` pairs models of two architectures, and `source` makes of all this a source like any other.
"""
