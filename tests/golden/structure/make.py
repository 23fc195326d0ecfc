"""Groups, merged experts, saliencies and layer similarities by the authors' own code.

With checkouts of wazenmai/HC-SMoE, UNITES-Lab/MC-SMoE, zhy617/SMoE, CerebrasResearch/reap and
SempraETY/Pruning-via-Merging in one directory, each under its own name:

    python tests/golden/structure/make.py PEERS
"""

import ast
import contextlib
import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

PEERS = Path(sys.argv[1])
torch.manual_seed(0)


def take(path, *names, **known):
    """Single functions of a module, without what the module imports."""
    tree = ast.parse((PEERS / path).read_text())
    tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name in names]
    scope = {"torch": torch, "np": np, **known}
    code = compile("from __future__ import annotations\n" + ast.unparse(tree), path, "exec")
    exec(code, scope)  # the authors' code is what is asked
    return types.SimpleNamespace(**scope)


numbers = {}

hc = take("HC-SMoE/hcsmoe/merging/clustering.py", "hierarchical_clustering", "pairwise_distances", "linkage_step",
          "compute_distance", "safe_average")  # fmt: skip
features = torch.randn(10, 6)
numbers["features"] = features.tolist()
for linkage in ("average", "complete", "single"):
    for count in (3, 5):
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                labels, _ = hc.hierarchical_clustering(features.clone(), count, linkage)
                numbers[f"hierarchical/{linkage}/{count}"] = labels.tolist()
            except (NotImplementedError, ValueError) as error:
                print(linkage, error, file=sys.stderr)

sub = take("SMoE/src/qwen/compress/merge_experts.py", "svd_subspace_alignment", svd=torch.linalg.svd, List=list)
experts = torch.randn(3, 7, 5)
shares = [0.5, 0.2, 0.3]
numbers["experts"] = experts.tolist()
numbers["shares"] = shares
numbers["joint_svd"] = sub.svd_subspace_alignment(list(experts), shares).tolist()

m = take("MC-SMoE/mcsmoe/merging/permutation.py", "compute_switch_permutation_by_weight_matching",
         linear_sum_assignment=linear_sum_assignment)  # fmt: skip


def mlp():
    return types.SimpleNamespace(wi=torch.nn.Linear(4, 6, bias=False), wo=torch.nn.Linear(6, 4, bias=False))


core, other = mlp(), mlp()
numbers["core"] = [core.wi.weight.tolist(), core.wo.weight.tolist()]
numbers["other"] = [other.wi.weight.tolist(), other.wo.weight.tolist()]
numbers["permutation"] = m.compute_switch_permutation_by_weight_matching(core, other, include_wo=True).tolist()

sys.path.insert(0, str(PEERS / "reap" / "src" / "reap"))
sys.modules["reap"] = types.ModuleType("reap")
sys.modules["reap"].__path__ = [str(PEERS / "reap" / "src" / "reap")]
from reap.pruning_metrics import initialize_pruning_state, update_pruning_state  # noqa: E402

outputs, logits = torch.randn(5, 40, 6), torch.randn(40, 5)
chosen = logits.topk(2, dim=1).indices
numbers["outputs"], numbers["logits"] = outputs.tolist(), logits.tolist()
for renormalise in (True, False):
    state = initialize_pruning_state(5)
    update_pruning_state(state, activations=outputs, selected_experts=chosen, router_logits=logits, num_experts=5,
                         renormalize_router_weights=renormalise)  # fmt: skip
    numbers[f"saliency/{renormalise}"] = state["reap"].mean.tolist()
numbers["frequency"] = state["expert_frequency"].tolist()

import time  # noqa: E402

from sklearn.feature_selection import mutual_info_regression  # noqa: E402
from sklearn.neighbors import NearestNeighbors  # noqa: E402

mka = take("Pruning-via-Merging/pipeline.py", "diffusionKernel", "L2_distance_chunked", "adaptive_chunk_size",
           "entropy_estimator_knn", "compute_similarity_matrix_npib_global", "compute_fusion_ratios", time=time,
           NearestNeighbors=NearestNeighbors, mutual_info_regression=mutual_info_regression)  # fmt: skip
random = np.random.default_rng(0)
states = [random.normal(size=(60, 8))]
for _ in range(3):
    states.append(states[-1] + 0.3 * random.normal(size=(60, 8)))
with contextlib.redirect_stdout(io.StringIO()):
    maps = [mka.diffusionKernel(s, sigmaK=8, alpha=0.5, d=2, total_size=60) for s in states]
ranks = [np.argsort(np.argsort(x, axis=0), axis=0) / 60 for x in maps]
np.random.seed(0)  # their estimate adds noise of 1e-10
similarity = mka.compute_similarity_matrix_npib_global(ranks)
numbers["similarity/maps"] = mka.compute_similarity_matrix_npib_global(maps).tolist()
numbers["states"] = [s.tolist() for s in states]
numbers["maps"] = [x.tolist() for x in maps]
numbers["similarity"] = similarity.tolist()
numbers["ratios"] = [float(r[0]) for r in mka.compute_fusion_ratios(similarity, [(2, 3), (1, 2)])]

Path(__file__).with_name("numbers.json").write_text(json.dumps(numbers) + "\n")
