"""Statistics of models, collected from a recipe's items for the methods that require them.

Map: `files` (what a recipe names, hashed) · `items` (texts to tokens) · `kinds` (what there is to collect) · `live` (a
source as a model that runs) · `activations`, `gradients`, `whole` (the collecting, kind by kind) · `stored` (on disk,
by content) · `provider` (what a method requires, from disk or collected).
"""
