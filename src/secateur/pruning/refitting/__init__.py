"""What is left learns to do what the whole did: in closed form, layer by layer, and by a few steps of gradient."""
