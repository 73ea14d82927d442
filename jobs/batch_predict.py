"""Predict a Parquet dataset with Ray Data.

python jobs/batch_predict.py --config configs/flights.yaml
ray job submit --working-dir . -- python jobs/batch_predict.py --config configs/flights.yaml
"""

import sys

from ray_mlops.cli import main

if __name__ == "__main__":
    main(["batch-predict", *sys.argv[1:]])
