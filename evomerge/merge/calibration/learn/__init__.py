"""Coefficients of a merge, learned by gradients over the items of a recipe's calibration section.

What is learned is one more kind of statistic: found once, cached by all that it depends on, read by a merge that is as
pure as any other.

Map: `atoms` (the tensors that coefficients multiply) · `student` (the model that runs under weights in the making) ·
`losses` · `items` (which items a step sees) · `adam` · `gates` (how coefficients become weights) · `descent` (the
steps) · `frank_wolfe` · `learners` (the published procedures, by kind) · `learned` (from the cache, or learned now).

Beside these, of the models alone and without items: `mlp` (a layer's MLP, to be run by itself) · `anchors` (synthetic
inputs of it, and scales that fit them) · `anchored` (from the cache, or learned now).
"""
