"""Search hyperparameters with ASHA and Optuna over the training function.

python jobs/tune.py --config configs/flights.yaml
ray job submit --working-dir . -- python jobs/tune.py --config configs/flights.yaml
"""

import sys

from ray_mlops.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
