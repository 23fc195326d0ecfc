"""Run the authors' own code of several papers on one small random model and keep the numbers: see ../README.md.

    python make.py CLONES

CLONES holds clones of the repositories in `COMMITS`, each under its name here. Functions are taken out of their files
by name, so that what those files import besides need not be installed. None of that code is kept.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import OrderedDict, defaultdict
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
COMMITS = {
    "duguodong7/pcb-merging": "5897888b5d24adfcd33e124793d113746e00f3ff",
    "yule-BUAA/MergeLLM": "9178ef93846aa1df9a3a2c28886a346184edfa79",
    "zongzhenyang/CABS": "a41f8913e6859af6f834013fc2db7208119f9afd",
    "wang-kee/LiNeS": "43a7bdd564a16195b164abc2c64ec1856c59c211",
    "nik-dim/tall_masks": "d10af8b21383322367fb35474bd9cd0f9ebe9ecf",
    "prateeky2806/ComPEFT": "d80ba585818e1692f7be830a6b5fe5c53aae7cdc",
    "IBM/STAR": "e6bfcf70e6f9133141881dc427f81d3f50e463bc",
    "tanganke/fusion_bench": "54c9e8c9d9621620c720452cd8533332a32d3689",
}
CONFIG = LlamaConfig(
    vocab_size=14,
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
    dtype="float32",
)
EXPERTS = ("a", "b", "c")


class Quiet:
    """Stands in for loggers and progress bars."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def taken(clones: Path, repository: str, path: str, *names: str) -> SimpleNamespace:
    """Functions and classes of one file, by name; a method by `Class.method`."""
    spec = f"{COMMITS[repository]}:{path}"
    text = subprocess.run(["git", "-C", clones / repository, "show", spec], check=True, capture_output=True).stdout
    tree = ast.parse(text)
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    nodes: list[ast.stmt] = [n for n in tree.body if getattr(n, "name", None) in names]
    for name in names:
        if "." in name:
            owner, method = name.split(".")
            nodes += [n for n in classes[owner].body if getattr(n, "name", None) == method]
    known: dict[str, Any] = {
        "torch": torch, "nn": nn, "np": np, "re": re, "copy": SimpleNamespace(deepcopy=deepcopy),
        "tqdm": lambda x, **_: x, "defaultdict": defaultdict, "OrderedDict": OrderedDict, "wandb": Quiet(),
        "log_wandb_mask_sparsity": Quiet().log, "print": Quiet().log, "StateDictType": dict,
    }  # fmt: skip
    exec("from __future__ import annotations\n", known)
    code = compile(ast.Module(nodes, []), path, "exec", flags=__import__("__future__").annotations.compiler_flag)
    exec(code, known)
    return SimpleNamespace(known=known, **{n.split(".")[-1]: known[n.split(".")[-1]] for n in names})


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors.values()])


def unflat(vector: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = vector.split([t.numel() for t in like.values()])
    return {name: part.view(t.shape).clone() for part, (name, t) in zip(parts, like.items(), strict=True)}


def models() -> dict[str, dict[str, Tensor]]:
    """A base and three experts, all of whose tensors differ from it by much."""
    torch.manual_seed(0)
    base = {name: t.detach().clone() for name, t in LlamaForCausalLM(CONFIG).state_dict().items()}
    base = {name: 0.5 * torch.randn(t.shape) if t.dim() == 2 else t for name, t in base.items()}
    found = {"base": base}
    for number, name in enumerate(EXPERTS):
        scale = 0.2 * (1 + number)
        found[name] = {tensor: t + scale * torch.randn(t.shape) for tensor, t in base.items()}
    return found


def distinct(values: Tensor) -> Tensor:
    """Magnitudes that differ, in half precision: which of equal ones a top-k keeps is nobody's rule."""
    order = values.abs().reshape(-1).argsort(stable=True)
    ranks = torch.empty_like(order).scatter_(0, order, torch.arange(1, len(order) + 1))
    return ranks.view(values.shape).float() / 256 * values.sign()


def pcb(clones: Path, deltas: list[dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    theirs = taken(clones, "duguodong7/pcb-merging", "pcb-merging.py", "normalize", "clamp", "act", "PCB_merge")
    stack = torch.stack([flat(d) for d in deltas])
    return {f"pcb_{r}": unflat(theirs.PCB_merge(stack, pcb_ratio=r)[0], deltas[0]) for r in (0.1, 0.7)}


def widen(clones: Path, state: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    folder = "model_merging_methods"
    names = taken(clones, "yule-BUAA/MergeLLM", "utils/utils.py", "get_param_names_to_merge")
    vectors = taken(clones, "yule-BUAA/MergeLLM", f"{folder}/task_vector.py", "TaskVector")
    theirs = taken(clones, "yule-BUAA/MergeLLM", f"{folder}/merging_methods.py", "MergingMethod")
    for module in (vectors, theirs):
        module.known["get_param_names_to_merge"] = names.get_param_names_to_merge
    theirs.known["TaskVector"] = vectors.TaskVector
    loaded = {}
    for name, tensors in state.items():
        loaded[name] = LlamaForCausalLM(CONFIG)
        loaded[name].load_state_dict(tensors)
    results = {}
    for label, t, s in (("widen", 1.0, 1.0), ("widen_set", 1.3, 0.8)):
        merged = theirs.MergingMethod("widen_merging").widen_merging(
            deepcopy(loaded["base"]), [loaded[e] for e in EXPERTS], [], above_average_value_ratio=t,
            score_calibration_value=s,
        )  # fmt: skip
        results[label] = {n: v.detach().contiguous() for n, v in merged.items()}
    return results


def cabs(clones: Path, deltas: list[dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Sums of pruned task vectors in half precision, as the script for large models has them; of two models."""
    script = "src/mistral_leaderboard_experiments/prune_task_vector_7b.py"
    theirs = taken(clones, "zongzhenyang/CABS", script, "nm_pruning", "sparse_task_vectors")
    small = taken(clones, "zongzhenyang/CABS", "src/roberta_glue_experiments/prune_task_vector.py",
                  "n_m_block_pruning", "block_random_pruning")  # fmt: skip

    class Holder:
        def __init__(self, state: dict[str, Tensor]) -> None:
            self.state = {name: t.clone() for name, t in state.items()}

        def state_dict(self) -> dict[str, Tensor]:
            return self.state

        def load_state_dict(self, state: dict[str, Tensor]) -> None:
            self.state = state

    half = [{name: distinct(t.half().float()) for name, t in d.items()} for d in deltas[:2]]
    results = {"cabs_a": half[0], "cabs_b": half[1]}
    for n in (1, 2, 3):
        one, two = theirs.sparse_task_vectors(Holder(half[0]), Holder(half[1]), "nm", n=n, m=4)
        results[f"cabs_{n}_4"] = {name: one.state[name].float() + two.state[name].float() for name in half[0]}
    one, two = small.block_random_pruning(
        *({name: t.clone() for name, t in d.items()} for d in half), pruning_method="n:m", n=2, m=5
    )
    results["cabs_tail"] = {name: one[name] + two[name] for name in one}
    return results


def lines(clones: Path, deltas: list[dict[str, Tensor]], ties: Tensor) -> dict[str, dict[str, Tensor]]:
    theirs = taken(clones, "wang-kee/LiNeS", "src/eval/eval.py", "LiNeS_scaling")
    summed = torch.stack([flat(d) for d in deltas]).sum(dim=0)
    results = {}
    for label, merged, beta in (("lines_sum", summed, 0.7), ("lines_ties", ties, 0.4)):
        alpha = (summed.abs().sum().item() / merged.abs().sum().item()) * 1 / len(deltas)
        vector = SimpleNamespace(vector=unflat(merged, deltas[0]))
        results[label] = theirs.LiNeS_scaling(vector, alpha, beta, CONFIG.num_hidden_layers).vector
    single = theirs.LiNeS_scaling(SimpleNamespace(vector=deltas[0]), 0.3, 1 - 0.3, CONFIG.num_hidden_layers)
    return results | {"lines_single": single.vector}


def consensus(clones: Path, state: dict[str, dict[str, Tensor]], deltas: list[dict[str, Tensor]]) -> Any:
    star = taken(clones, "IBM/STAR", "merger/tall_mask.py", "get_merged_tv_tall", "get_mtl", "get_tall_masks",
                 "consensus_mask", "get_merged_tv")  # fmt: skip
    results = {f"consensus_{k}": star.get_merged_tv_tall(deltas, 0.4, 1.0, k=k) for k in (1, 2, 3)}
    topk = taken(clones, "nik-dim/tall_masks", "src/utils/utils.py", "topk_values_mask")
    theirs = taken(clones, "nik-dim/tall_masks", "src/utils/ties_utils.py", "resolve_zero_signs", "resolve_sign",
                   "disjoint_merge", "ties_merging")  # fmt: skip
    theirs.known["topk_values_mask"] = topk.topk_values_mask
    stack = torch.stack([flat(d) for d in deltas])
    ties = theirs.ties_merging(stack, reset_thresh=20, merge_func="dis-sum")
    masks = taken(clones, "nik-dim/tall_masks", "src/utils/tallmask_utils.py", "generate_task_masks")
    models = torch.stack([flat(state[e]) for e in EXPERTS])
    mask = masks.generate_task_masks(stack, models, flat(state["base"]), ties, 0.5)
    results["consensus_ties"] = unflat(ties * (mask.float().sum(dim=0) >= 2), deltas[0])
    return results, ties


def compeft(clones: Path, deltas: list[dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    theirs = taken(clones, "prateeky2806/ComPEFT", "src/qlora/ties_utils.py", "state_dict_to_vector",
                   "vector_to_state_dict", "topk_values_mask", "get_compressed_lora_weights")  # fmt: skip
    return {"compeft": theirs.get_compressed_lora_weights(deltas[0], 20, 3.0)}


def metagpt(clones: Path, deltas: list[dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    theirs = taken(clones, "IBM/STAR", "merger/metagpt.py", "metagpt_get_lambdas", "metagpt_get_merged_tv")
    return {"metagpt": theirs.metagpt_get_merged_tv(deltas)}


def doge(clones: Path, deltas: list[dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The loss at 0 and at δ, and the merge with δ; δ is a least-squares solution of every row."""
    names = ("taskvector_loss", "compute_layer_lamdas", "topk_values_mask")
    theirs = taken(clones, "tanganke/fusion_bench", "fusion_bench/method/doge_ta/doge_ta.py",
                   *(f"DOGE_TA_Algorithm.{name}" for name in names))  # fmt: skip
    algorithm = SimpleNamespace(config=SimpleNamespace(lamda=0.07))
    matrices = [{n: t for n, t in d.items() if t.dim() == 2 and "layers" in n} for d in deltas]
    lambdas = theirs.compute_layer_lamdas(algorithm, matrices)
    masks = [unflat(theirs.topk_values_mask(algorithm, flat(d), 0.3), d) for d in matrices]
    results: dict[str, dict[str, Tensor]] = {"doge": {}, "doge_loss": {}}
    for name in matrices[0]:
        vectors = torch.stack([d[name] for d in matrices])
        scale = torch.stack([found[name] for found in lambdas])
        together = (vectors * scale.view(-1, 1, 1)).sum(dim=0)
        gaps = (vectors * (vectors - together)).sum(dim=2)
        rows = [
            torch.linalg.lstsq(vectors[:, r].double(), gaps[:, r : r + 1].double(), driver="gelsd").solution[:, 0]
            for r in range(vectors.shape[1])
        ]
        edit = (torch.stack(rows) / scale.sum()).float()
        at = [theirs.taskvector_loss(algorithm, vectors, x, scale) for x in (torch.zeros_like(edit), edit)]
        results["doge_loss"][name] = torch.stack(at)
        adjusted = torch.stack([(v + edit) * m[name] for v, m in zip(vectors, masks, strict=True)])
        results["doge"][name] = (adjusted * scale.view(-1, 1, 1)).sum(dim=0)
    return results


def main(clones: Path) -> None:
    state = models()
    deltas = [{n: state[e][n] - state["base"][n] for n in state["base"]} for e in EXPERTS]
    kept, ties = consensus(clones, state, deltas)
    results = {
        **kept,
        **pcb(clones, deltas),
        **widen(clones, state),
        **cabs(clones, deltas),
        **lines(clones, deltas, ties),
        **compeft(clones, deltas),
        **metagpt(clones, deltas),
        **doge(clones, deltas),
    }
    tensors = {f"{group}/{name}": t for group, of in {**state, **results}.items() for name, t in of.items()}
    save_file({name: t.float().contiguous() for name, t in tensors.items()}, HERE / "merges.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
