"""Greedy answers by vLLM: rows join the batch as others leave it, and beginnings that prompts share are read once.

The engine runs in this process and is asked step by step, so an answer ends where it ends in `fitness.decoding`: after
each token it is looked at, and a row that is done is taken out. Weights come from the live model in memory. Layers are
reloaded as vLLM reloads them in reinforcement learning, which repacks them; nothing read with other weights is kept.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evomerge.errors import EvomergeError
from fitness.decoding import GreedyDecoder, Prompt, Written
from fitness.failures import NonFiniteOutputError
from fitness.loglikelihood import max_length

CPU_CACHE = 1 << 30
"""Bytes for keys and values on a CPU. `VLLM_CPU_KVCACHE_SPACE` (GiB) takes its place."""

MOST_ROWS = 256
"""Most answers that are written at a time; also no more than `batch_tokens`."""

TOLERANCE = {torch.float32: 0.01, torch.float16: 0.1, torch.bfloat16: 0.2}
"""By how much a token's log-probability (natural logarithm) may differ from transformers', the mean over a text. With a
tensor that was not taken over it differs by more than 1."""

PROBE = 48
"""Tokens of that text."""

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: weights are handed over by reference
    "VLLM_NO_USAGE_STATS": "1",  # nothing is sent anywhere
    "DO_NOT_TRACK": "1",
}


class Live(Protocol):
    """A model whose weights change in place, such as `evomerge.merge.resident.Resident`."""

    @property
    def version(self) -> int:
        """Another number after every change."""
        ...

    @property
    def on_path(self) -> bool:
        """Whether tokens take another way through the layers than the model's own."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The live tensors under the names that a checkpoint gives them."""
        ...


class VllmDecoder:
    """Continues prompts with a live model, whose weights may change between calls.

    While the model is on a path of layers, which vLLM does not know, the plain decoder answers.

    Args:
        plain: whose model, ends and device it takes, and what it must agree with.
        live: the weights of the same model.
        length: most tokens of a prompt and its answer.
        memory: share of a GPU's memory that vLLM may fill, weights included.

    Raises:
        EvomergeError: vLLM does not start with this model, or computes something else from its weights.
    """

    def __init__(self, plain: GreedyDecoder, live: Live, *, length: int, memory: float = 0.3) -> None:
        self.plain, self._live, self._length, self._memory = plain, live, length, memory
        self._llm: Any = None
        with _ONE_ENGINE:
            self._start()

    def write(self, prompts: Sequence[Prompt]) -> list[Written]:
        """The answer to each prompt, in the order given.

        Raises:
            NonFiniteOutputError: NaN or infinity instead of the next token's logits.
        """
        if self._live.on_path:
            return self.plain.write(prompts)
        with _ONE_ENGINE:
            if self._llm is None:  # another run in this process took its place
                self._start()
            if self._version != self._live.version:
                self._take_over()
            return self._write(prompts)

    def close(self) -> None:
        """Give the engine's memory back; the next call of `write` starts another."""
        if self._llm is not None:
            self._end()
            self._llm = None

    def _start(self) -> None:
        for other in list(_HOLDERS):
            other.close()
        try:
            self._llm = _engine(_load_vllm(self.plain.device), self.plain, self._length, self._memory)
            self._end = weakref.finalize(self, _shut_down, self._llm)
            _HOLDERS.add(self)
            self._take_over()
            self._check()
        except Exception as error:  # vLLM's errors have nothing in common
            self.close()
            if isinstance(error, EvomergeError | MemoryError | torch.OutOfMemoryError):
                raise
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EvomergeError(f"vLLM does not start with {type(self.plain.model).__name__}: {said}") from error

    def _write(self, prompts: Sequence[Prompt]) -> list[Written]:
        answers = [_Answer(prompt, self.plain.ends) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda n: (prompts[n].tokens, prompts[n].key))
        writing = {self._add(prompts[place], place): answers[place] for place in order}
        try:
            self._run(writing)
        except NonFiniteOutputError:
            self._leave(list(writing))
            self._llm.collective_rpc(_blank)
            raise
        except BaseException:
            self._leave(list(writing))
            raise
        return [Written(tuple(answer.tokens), answer.finished) for answer in answers]

    def _run(self, writing: dict[str, _Answer]) -> None:
        """Until all have ended; those that have are taken out of `writing`."""
        engine = self._llm.llm_engine
        while writing:
            done = []
            for output in engine.step():
                answer = writing.get(output.request_id)
                if answer is None:
                    continue
                said = output.outputs[0]
                for token, found in zip(said.token_ids, said.logprobs, strict=True):
                    answer.take(token, found[token].logprob)
                if answer.over:
                    del writing[output.request_id]
                    if not output.finished:
                        done.append(output.request_id)
            self._leave(done)

    def _leave(self, requests: list[str]) -> None:
        if requests:
            self._llm.llm_engine.abort_request(requests)

    def _add(self, prompt: Prompt, place: int) -> str:
        said = importlib.import_module("vllm.sampling_params")
        params = said.SamplingParams(
            temperature=0.0, max_tokens=prompt.most, ignore_eos=True, stop_token_ids=sorted(self.plain.ends),
            detokenize=False, output_kind=said.RequestOutputKind.DELTA, logprobs=0,
        )  # fmt: skip
        self._llm.llm_engine.add_request(str(place), _tokens(prompt.tokens), params)
        return str(place)

    def _take_over(self) -> None:
        """The live model's weights, and nothing of what was read with earlier ones."""
        self._version = -1  # half of one and half of another if anything goes wrong
        version = self._live.version
        with torch.no_grad():
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._live.weights()})
            self._llm.apply_model(_repack_tied_heads)
        if not self._llm.reset_prefix_cache():
            raise EvomergeError("vLLM keeps what it has read with other weights")
        self._version = version

    def _check(self) -> None:
        """Whether both compute the same from these weights, on a text of any tokens.

        Raises:
            EvomergeError: they do not.
        """
        model = self.plain.model
        tokens = tuple((7 + 31 * n) % model.config.vocab_size for n in range(PROBE))
        params = importlib.import_module("vllm").SamplingParams(
            temperature=0.0, max_tokens=1, detokenize=False, prompt_logprobs=0
        )
        output = self._llm.generate([_tokens(tokens)], params, use_tqdm=False)[0]
        said = zip(output.prompt_logprobs[1:], tokens[1:], strict=True)
        theirs = torch.tensor([found[token].logprob for found, token in said])
        ours = _log_probabilities(model, tokens, self.plain.device)
        difference, most = float((theirs - ours).abs().mean()), TOLERANCE[model.dtype]
        if not difference <= most:  # NaN is not
            raise EvomergeError(
                f"vLLM computes something else than transformers from the weights of {type(model).__name__}: "
                f"log-probabilities differ by {difference:.3g}, at most {most} is rounding"
            )


class _Answer:
    """An answer as far as it is written; ends as one of `fitness.decoding` does."""

    def __init__(self, prompt: Prompt, ends: frozenset[int]) -> None:
        self._prompt, self._ends = prompt, ends
        self.tokens: list[int] = []
        self.finished = False

    @property
    def over(self) -> bool:
        return self.finished or len(self.tokens) >= self._prompt.most

    def take(self, token: int, logprob: float) -> None:
        if self.over:
            return
        if not torch.isfinite(torch.tensor(logprob)):
            raise NonFiniteOutputError("the model's output is not finite while it answers")
        if token in self._ends:
            self.finished = True
        else:
            self.tokens.append(token)
            self.finished = self._prompt.stopped(self.tokens)


_ONE_ENGINE = threading.RLock()
_HOLDERS: weakref.WeakSet[VllmDecoder] = weakref.WeakSet()
"""The decoder whose engine runs in this process. vLLM's engines of one process share state that each of them takes down
when it ends, so there is one at a time."""


def _shut_down(llm: Any) -> None:
    llm.llm_engine.engine_core.shutdown()


def _load_vllm(device: torch.device) -> Any:
    os.environ.update(SETTINGS)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns of every tensor that two layers share, every time
    vllm: Any = importlib.import_module("vllm")
    built_for = importlib.import_module("vllm.platforms").current_platform.device_type
    if built_for != device.type:
        raise EvomergeError(f"this vLLM computes on {built_for}, the workers on {device.type}")
    return vllm


def _engine(vllm: Any, plain: GreedyDecoder, length: int, memory: float) -> Any:
    """An engine of the model's shape with arbitrary weights."""
    config, limit = plain.model.config, max_length(plain.model.config)
    place = Path(tempfile.mkdtemp(prefix="evomerge-vllm-"))
    config.save_pretrained(place)
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    cache = {"kv_cache_memory_bytes": CPU_CACHE} if plain.device.type == "cpu" else {}
    try:
        llm = vllm.LLM(
            model=str(place),
            hf_overrides={"architectures": [type(plain.model).__name__]},
            skip_tokenizer_init=True,
            load_format="dummy",
            dtype=str(plain.model.dtype).removeprefix("torch."),
            enforce_eager=True,
            max_model_len=max(PROBE + 1, length if limit is None else min(length, limit)),
            max_num_seqs=min(MOST_ROWS, plain.batch_tokens),
            max_num_batched_tokens=plain.batch_tokens,
            gpu_memory_utilization=memory,
            enable_prefix_caching=True,
            generation_config="vllm",
            **cache,
        )
    finally:
        torch.set_num_threads = set_threads  # vLLM's CPU worker puts one in its place that does nothing
        torch.set_num_threads(threads)
    weakref.finalize(llm, shutil.rmtree, place, ignore_errors=True)
    return llm


def _repack_tied_heads(model: Any) -> None:
    """A head that shares the embedding's tensor gets no weights of its own, and its packed form on a CPU would stay."""
    embeddings = importlib.import_module("vllm.model_executor.layers.vocab_parallel_embedding")
    tables = [m for m in model.modules() if isinstance(m, embeddings.VocabParallelEmbedding)]
    shared = {id(m.weight) for m in tables if not isinstance(m, embeddings.ParallelLMHead)}
    for head in tables:
        if isinstance(head, embeddings.ParallelLMHead) and id(head.weight) in shared:
            head.quant_method.process_weights_after_loading(head)


def _blank(worker: Any) -> None:
    """Zeros for keys and values: attention multiplies what a block held before by 0, and NaN stays NaN."""
    for cache in worker.model_runner.kv_caches:
        cache.zero_()


def _tokens(tokens: Sequence[int]) -> Any:
    return importlib.import_module("vllm.inputs").tokens_input(list(tokens))


@torch.inference_mode()
def _log_probabilities(model: PreTrainedModel, tokens: Sequence[int], device: torch.device) -> Tensor:
    """Of each token but the first after those before it, [tokens - 1], natural logarithm."""
    asked = torch.tensor([list(tokens)], device=device)
    shares = model(input_ids=asked, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    found: Tensor = shares.gather(1, asked[0, 1:, None])[:, 0].cpu()
    return found
