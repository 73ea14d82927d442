"""From candidate to champion: pure decisions over evidence, and the reconciler and actor that carry them out."""
