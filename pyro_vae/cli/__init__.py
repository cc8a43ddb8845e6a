"""The command line, which prepares the process before torch is loaded."""

import os

# Threads that wait for one another spin for milliseconds: if other programs use all cores, a step then takes a hundred
# times as long. Fewer rounds cost some percent on quiet cores (benchmarks/results/speed-cpu/threads.json).
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
