"""Model code that no library we can depend on has, and readers of foreign checkpoints."""
