"""Show what the monitor sees, or acknowledge a contract alarm.

python jobs/monitor.py --config configs/flights.yaml
ray job submit --working-dir . -- python jobs/monitor.py --config configs/flights.yaml
"""

import sys

from ray_mlops.cli import main

if __name__ == "__main__":
    main(["monitor", *sys.argv[1:]])
