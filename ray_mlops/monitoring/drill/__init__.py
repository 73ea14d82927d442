"""Fire drills: known faults in a copy of a model's own stream, before its own channels."""
