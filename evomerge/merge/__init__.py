"""Recipes to weights: methods, plan, execute, resident."""
