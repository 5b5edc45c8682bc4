"""Speech: corpora, reading audio, and batches of it."""
