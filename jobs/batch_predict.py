"""Predict Parquet, CSV or JSON lines into Parquet with Ray Data; the same command goes on with a run that was killed.

python jobs/batch_predict.py --config configs/flights.yaml new.parquet predictions/
ray job submit --working-dir . -- python jobs/batch_predict.py --config configs/flights.yaml s3://in/ s3://out/
"""

import sys

from ray_mlops.cli import main

if __name__ == "__main__":
    main(["batch-predict", *sys.argv[1:]])
