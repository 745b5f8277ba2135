"""Others on the same device in the same run, where they are installed: the same shape, random
weights, greedy tokens; a step is what further tokens cost.

They are given bfloat16 experts (transformers) or whatever they make of MXFP4 (vLLM, in a process of
its own, because it keeps the device's memory until it ends).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from gpu_parts import bounds
from gpu_parts.clock import Bench
from ossia.config import ModelConfig

FEW = 8  # tokens of an answer that warms up, and is taken off
MANY = 40
BF16 = 2
LEAST_SECONDS = 60  # in which vLLM may have begun


def measure_peers(bench: Bench, name: str, config: ModelConfig) -> dict[str, str]:
    """Rows for those that ran; why not, for the others."""
    said = {}
    for peer, measure in (("transformers", measure_transformers), ("vllm", measure_vllm)):
        if find_spec(peer) is None:
            said[peer] = "not installed"
        elif not bench.allowance.allows(peer):
            said[peer] = "no time"
        else:
            said[peer] = measure(bench, name, config)
    return said


def seconds_of_a_step(answer: Callable[[int], object], wait: Callable[[], None]) -> float:
    """From two answers, of few tokens and of many, so that the prompt is in neither."""
    taken = []
    answer(FEW)  # compiles
    for tokens in (FEW, MANY):
        wait()
        began = time.perf_counter()
        answer(tokens)
        wait()
        taken.append(time.perf_counter() - began)
    return max(taken[1] - taken[0], 1e-9) / (MANY - FEW)


def measure_transformers(bench: Bench, name: str, config: ModelConfig) -> str:
    import transformers

    # everything but the two tables is about what experts are
    weights = config.num_hidden_layers * config.num_experts * bounds.expert_weights(config)
    if BF16 * weights * 1.2 > bench.free_memory():
        return "bfloat16 weights do not fit beside what is there"
    theirs = transformers.GptOssConfig.from_dict(config.to_hf_json(quantized=False))
    theirs.dtype = torch.bfloat16
    with torch.device("meta"):
        model = transformers.GptOssForCausalLM(theirs)
    model = model.to(torch.bfloat16).to_empty(device=bench.device).eval()
    for weight in model.parameters():
        weight.normal_(0, 0.02, generator=bench.rng)
    for module in model.modules():  # a buffer that `to_empty` has left empty
        if hasattr(module, "original_inv_freq"):
            fresh = type(module)(theirs).to(bench.device)
            module.inv_freq = fresh.inv_freq
            module.original_inv_freq = fresh.original_inv_freq
            module.attention_scaling = fresh.attention_scaling
    for rows in bench.sizes.streams:
        prompt = torch.full((rows, 8), 5, device=bench.device)
        mask = torch.ones_like(prompt)

        def answer(tokens: int, prompt: Any = prompt, mask: Any = mask) -> object:
            return model.generate(
                prompt,
                attention_mask=mask,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )

        seconds = seconds_of_a_step(answer, bench.wait)
        row = bench.note(f"transformers {name}", seconds, bounds.decode(config, rows, 8), rows=rows)
        row["tokens_per_second"] = rows / seconds
    return f"transformers {transformers.__version__}, experts in bfloat16"


def measure_vllm(bench: Bench, name: str, config: ModelConfig) -> str:
    seconds = bench.allowance.left
    if seconds < LEAST_SECONDS:
        return "no time"
    bench.free_memory()  # what is not used any more is vLLM's
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config.to_hf_json(quantized=True)))
        streams = [str(rows) for rows in bench.sizes.streams]
        command = [sys.executable, "-m", "gpu_parts.peers", folder, *streams]
        paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        how = {"capture_output": True, "text": True, "timeout": seconds}
        try:
            run = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, **how)
        except subprocess.TimeoutExpired:
            return f"not done in {seconds:.0f} s"
    lines = [line for line in run.stdout.splitlines() if line.startswith('{"vllm"')]
    if run.returncode or not lines:
        return f"failed: {run.stderr.strip()[-300:]}"
    found = json.loads(lines[-1])
    for rows, seconds in zip(bench.sizes.streams, found["seconds"], strict=True):
        row = bench.note(f"vllm {name}", seconds, bounds.decode(config, rows, 8), rows=rows)
        row["tokens_per_second"] = rows / seconds
    return f"vllm {found['vllm']}"


def vllm_alone(folder: str, streams: list[int]) -> None:
    """In its process: a line of JSON with seconds of a step."""
    import vllm

    model = vllm.LLM(
        model=folder,
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=4096,
        max_num_seqs=max(streams),
        gpu_memory_utilization=0.85,
        enable_prefix_caching=False,
    )
    seconds = []
    for rows in streams:
        prompts = [{"prompt_token_ids": [5 + n % 7] * 8} for n in range(rows)]

        def answer(tokens: int, prompts: Any = prompts) -> object:
            greedy = vllm.SamplingParams(
                temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False
            )
            return model.generate(prompts, greedy, use_tqdm=False)

        seconds.append(seconds_of_a_step(answer, lambda: None))
    print(json.dumps({"vllm": vllm.__version__, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    vllm_alone(sys.argv[1], [int(word) for word in sys.argv[2:]])
