"""Clusters of units by ZipIt's authors' code (github.com/gstoica27/ZipIt at 1b6ca40) on a random correlation matrix.

python tests/golden/structure/make_zip.py CHECKOUT_OF_ZIPIT
"""

import ast
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
source = (Path(sys.argv[1]) / "matching_functions.py").read_text()
wanted = ("remove_col", "compute_correlation", "match_tensors_zipit")
parts = [part for part in ast.parse(source).body if isinstance(part, ast.FunctionDef) and part.name in wanted]
names = {"torch": torch}
exec(compile(ast.Module(parts, []), "matching_functions.py", "exec"), names)

features = torch.randn(40, 24, generator=torch.Generator().manual_seed(5))
features[:, 3] = features[:, 1] + 0.2 * features[:, 3]
features[:, 14] = features[:, 2] + 0.3 * features[:, 14]
features[:, 20] = features[:, 19] + 0.1 * features[:, 20]
similarity = torch.corrcoef(features.T)
runs = {}
for name, r, a, b in (
    ("default", 0.5, 0.3, 0.125),
    ("loose", 0.5, 1.0, 1.0),
    ("apart", 0.375, 0.3, 0.5),
    ("never", 0.5, 0.0, 0.5),
):
    merge = names["match_tensors_zipit"]({"cossim": similarity.clone()}, r=r, a=a, b=b)
    merge = merge[0] if isinstance(merge, tuple) else merge
    matrix = merge if merge.shape[1] == 24 else merge.T
    runs[name] = {"a": a, "b": b, "clusters": sorted(sorted(torch.nonzero(row).flatten().tolist()) for row in matrix)}
(HERE / "zip.json").write_text(json.dumps({"similarity": similarity.tolist(), "runs": runs}) + "\n")
print({name: run["clusters"] for name, run in runs.items()})
