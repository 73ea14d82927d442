"""Watching: drift, labels that come late, performance, and what to do about them."""
