"""The protocols that the gateway speaks: each reads a request for predictions, and writes the answer."""
