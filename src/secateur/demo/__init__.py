"""The first five minutes: a model that comes with Secateur is halved, on speech that is made on the spot."""
