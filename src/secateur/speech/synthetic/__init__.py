"""The synthetic corpus: our own sentences, spoken on the spot by espeak-ng, in rooms and noise."""
