"""Plans between equal masses by POT: exact, and by Sinkhorn's iteration.

python -m venv /tmp/pot-venv && /tmp/pot-venv/bin/pip install pot==0.9.7.post1
/tmp/pot-venv/bin/python tests/golden/pot/make.py
"""

import json
from pathlib import Path

import numpy as np
import ot

SIZE = 8
random = np.random.default_rng(0)
source, base = random.normal(size=(SIZE, 5)), random.normal(size=(SIZE, 5))
squared = ot.dist(source, base)
mass = np.full(SIZE, 1 / SIZE)
plans = {"source": source, "base": base}
for name, cost in (("distance", np.sqrt(squared)), ("squared", squared)):
    plans[f"emd/{name}"] = ot.emd(mass, mass, cost) * SIZE
    for reg in (0.08, 0.5):
        options = {"method": "sinkhorn_log", "numItermax": 100_000, "stopThr": 1e-13}
        plans[f"sinkhorn/{name}/{reg}"] = ot.sinkhorn(mass, mass, cost / cost.max(), reg, **options) * SIZE
numbers = {name: np.asarray(plan).tolist() for name, plan in plans.items()}
Path(__file__).with_name("plans.json").write_text(json.dumps(numbers, indent=1) + "\n")
