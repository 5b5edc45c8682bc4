"""The learned method: gates under a budget, distillation on the way, phases that fit into the time, what is kept of them."""
