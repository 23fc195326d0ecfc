"""Tables by mergekit's tokensurgeon: a tiny Llama gets the tokenizer of a wider Qwen2 with a tied head.

    /tmp/mergekit-venv/bin/python tests/golden/mergekit/make_tokens.py

Writes tokens/model, tokens/donor and tokens/tables.safetensors (`<run>/embedding`, `<run>/head`).
"""

import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from click.testing import CliRunner
from mergekit.scripts.tokensurgeon import main
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).parent / "tokens"
RUNS = {
    "omp": ["-k", "5"],
    **{
        f"{weights}_{metric}": ["-a", "common_interpolation", "-k", "4", "-w", weights, flag]
        for weights in ("distance_proportional", "barycentric", "least_squares")
        for metric, flag in (("euclidean", "-nc"), ("cosine", "-c"))
    },
    **{f"subword_{how}": ["-a", "subword", "-s", how] for how in ("mean", "sum", "first_last")},
    "mean": ["-a", "mean"],
    "zero": ["-a", "zero"],
    "prefix": ["-a", "zero", "-pm", "yes"],
    "scaled": ["-k", "5", "-nvs", "0.5"],
}
TEXTS = (
    ["the cat sat on the mat", "the dog ate the cake and the hat was on the cat"],
    ["the cats sat at that table", "a dog had eaten cakes and hats, on the mat then"],
)


def tokenizer(text, size):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trained.train_from_iterator(
        [text] * 4, trainers.BpeTrainer(vocab_size=size, special_tokens=["<s>", "</s>"], show_progress=False)
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<s>", eos_token="</s>")


ours, theirs = tokenizer(TEXTS[0], 34), tokenizer(TEXTS[1], 48)
sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8}
torch.manual_seed(0)
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(ours), hidden_size=8, **sizes))
config = transformers.Qwen2Config(vocab_size=len(theirs), hidden_size=12, tie_word_embeddings=True, **sizes)
donor = transformers.Qwen2ForCausalLM(config)
with torch.no_grad():
    for parameter in [*model.parameters(), *donor.parameters()]:
        parameter.add_(torch.randn_like(parameter))
for made, words, name in ((model, ours, "model"), (donor, theirs, "donor")):
    shutil.rmtree(HERE / name, ignore_errors=True)
    made.save_pretrained(HERE / name)
    words.save_pretrained(HERE / name)
    (HERE / name / "generation_config.json").unlink(missing_ok=True)

tables = {}
for run, options in RUNS.items():
    with tempfile.TemporaryDirectory() as out:
        asked = [str(HERE / "model"), str(HERE / "donor"), out, *options]
        result = CliRunner().invoke(main, asked, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        found = {}
        for file in Path(out).glob("*.safetensors"):
            found |= load_file(file)
        tables[f"{run}/embedding"] = found["model.embed_tokens.weight"].contiguous()
        tables[f"{run}/head"] = found["lm_head.weight"].contiguous()
save_file(tables, HERE / "tables.safetensors")
print({name: tuple(tensor.shape) for name, tensor in tables.items()})
