"""Recipes as data.

`schema` (the frozen model and its digest), `calibration` (items that statistics are collected from), `parameters`
(what a recipe states for one tensor), `document` (safe YAML and JSON with the line of every value), `text` (recipes
and other specifications from and to text).
"""
