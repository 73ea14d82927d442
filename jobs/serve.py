"""Put a model behind HTTP, with the routes, rollouts and monitor actors.

python jobs/serve.py --config configs/flights.yaml
ray job submit --working-dir . -- python jobs/serve.py --config configs/flights.yaml
"""

import sys

from ray_mlops.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
