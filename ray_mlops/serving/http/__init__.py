"""HTTP on raw ASGI: paths, bodies, errors, and the description of it all. Knows no model's insides."""
