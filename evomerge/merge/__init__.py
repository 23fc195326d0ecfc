"""Recipes to weights.

Map: `method` (what a merge method is) · `methods` (published ones, as presets) · `primitives` (what they are made of)
· `resolve` (places to exact content) · `parameters`, `slices` and `plan` (a recipe to jobs, pure) · `inputs` (the open models) ·
`blocks` (one tensor through a method) · `execute` (jobs to files, out of core) · `sidecar` (config, tokenizer) ·
`resident` (jobs to a live model, in place) · `calibration` (statistics of models, for methods that read them) ·
`folded` (an adapter's deltas, multiplied out once) · `mergekit` (its YAML in and out).
"""
