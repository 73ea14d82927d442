"""``python -m ray_mlops.cli``."""

from ray_mlops.cli import main

if __name__ == "__main__":
    main()
