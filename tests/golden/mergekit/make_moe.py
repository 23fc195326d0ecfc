"""Router rows by mergekit-moe on a random two-layer Llama that reads prompts of forty words.

    /tmp/mergekit-venv/bin/python tests/golden/mergekit/make_moe.py

mergekit loads the model in bfloat16; here it is asked for float32, so that the numbers can be compared.
"""

import json
from pathlib import Path

import torch
import transformers
from mergekit.common import ModelReference
from mergekit.moe import router
from mergekit.moe.config import Expert
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

HERE = Path(__file__).parent / "moe"
PROMPTS = {
    "code": {"positive": ["w3 w4 w5 w6", "w4 w6 w3 w9"], "negative": ["w20 w21 w22"]},
    "math": {"positive": ["w20 w21 w22", "w21 w23 w30"], "negative": ["w3 w4 w5", "w7 w4 w11"]},
    "law": {"positive": ["w31 w32 w33 w31 w35"]},
}

torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
model = transformers.LlamaForCausalLM(config)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
model.save_pretrained(HERE)
words = Tokenizer(WordLevel({"<unk>": 0, "<s>": 1, **{f"w{i}": i for i in range(2, 40)}}, unk_token="<unk>"))
words.pre_tokenizer = Whitespace()
words.post_processor = TemplateProcessing(single="<s> $0", special_tokens=[("<s>", 1)])
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>")
tokenizer.save_pretrained(HERE)
tokenizer.padding_side, tokenizer.pad_token_id = "left", tokenizer.bos_token_id  # as mergekit-moe does

load = router.AutoModelForCausalLM.from_pretrained


def in_float32(path, **asked):
    asked.pop("torch_dtype")
    return load(path, dtype=torch.float32, **asked)


router.AutoModelForCausalLM.from_pretrained = in_float32
reference = ModelReference.model_validate(str(HERE))
experts = [
    Expert(source_model=reference, positive_prompts=said["positive"], negative_prompts=said.get("negative"))
    for said in PROMPTS.values()
]
rows = {
    mode: router.get_gate_params(reference, tokenizer, experts, mode=mode, device="cpu").tolist()
    for mode in ("hidden", "hidden_avg", "cheap_embed")
}
(HERE / "gates.json").write_text(json.dumps({"prompts": PROMPTS, "rows": rows}) + "\n")
