"""Paths through layers of several models, written out as ordinary checkpoints.

`visited` opens the models of a path and checks that their layers fit together, `fold` turns scales into factors of
tensors, `layout` says which tensor of which model goes where; `evomerge.merge.execute` writes them. `cost` counts what
a recipe's model costs to run. A live model that follows paths is `evomerge.models.dataflow`.
"""
