"""Weights: models, the loop that fits them, the search for hyperparameters, and the bundle that a version is."""
