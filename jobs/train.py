"""Train and evaluate one model without registering it.

python jobs/train.py --config configs/flights.yaml
ray job submit --working-dir . -- python jobs/train.py --config configs/flights.yaml
"""

import sys

from ray_mlops.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
