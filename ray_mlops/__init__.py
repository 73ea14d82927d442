"""The whole life of a model as one closed loop on Ray."""
