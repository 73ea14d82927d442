"""Run the whole pipeline: data, tune, train, evaluate, gate, register.

python jobs/pipeline.py --config configs/flights.yaml
ray job submit --working-dir . -- python jobs/pipeline.py --config configs/flights.yaml
"""

import sys

from ray_mlops.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
