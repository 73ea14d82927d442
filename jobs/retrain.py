"""Retrain now, or run the retraining of a recorded decision (--decision ID).

python jobs/retrain.py --config configs/flights.yaml
ray job submit --working-dir . -- python jobs/retrain.py --config configs/flights.yaml
"""

import sys

from ray_mlops.cli import main

if __name__ == "__main__":
    main(["retrain", *sys.argv[1:]])
