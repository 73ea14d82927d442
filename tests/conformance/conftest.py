"""These are scripts for an environment of their own; pytest has no part in them."""

collect_ignore_glob = ["*.py"]
