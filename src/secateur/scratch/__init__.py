"""Training a recogniser from scratch, on transcribed speech."""
