"""Supervised training: a recogniser learned from nothing but transcribed speech."""
