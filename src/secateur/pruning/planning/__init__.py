"""From budgets, and what each unit's removal would harm, to a plan: what may go, what goes first, how much of each."""
