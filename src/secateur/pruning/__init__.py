"""Deciding what a model can do without: budgets, scores, and plans that meet the one at the least of the other."""
