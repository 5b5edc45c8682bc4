"""Training: the speech that a model hears, and the loop around its steps."""
