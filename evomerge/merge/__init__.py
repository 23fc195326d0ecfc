"""Recipes to weights.

Map: `method` (what a merge method is) · `stage` and `stages` (steps that chains are made of) · `methods` (published
ones, as presets) · `primitives` (functions on tensors) · `standard` (parameters that many share) · `literature`
(papers) · `resolve` (places to exact content) · `parameters`, `slices` and `plan` (a recipe to jobs, pure) · `inputs`
(the open models; `align`, `vocabularies`, `factored`) · `blocks` and `fused` (one tensor through a method) · `engine`
and `execute` (jobs to files, out of core) · `sidecar`, `card` and `licence` (what lies beside weights) · `resident`
(jobs to a live model, in place) · `calibration` (statistics of models, for methods that read them) · `folded`
(deltas of adapters, multiplied out once) · `adapter_output` · `structure` (one model's experts and layers) · `lint` ·
`mergekit` (its YAML).
"""
