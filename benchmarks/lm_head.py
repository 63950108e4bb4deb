"""What it saves to run the LM head on answer positions only: ``python -m benchmarks.lm_head``.

Two ways to the same loss and the same gradient, forward and backward, side by side in one run:

* naive: logits of every position, then transformers' own causal language-model loss;
* answers: ``mosear.methods.answer_tuning.loss.answer_loss``.

The decoder is left out: it costs the same in both. The head is frozen, as it is in training. Time: the two alternate in
one process, after a warm-up of each. Peak memory: each in a process of its own, above what inputs and weights take.

The defaults (152,064 tokens as in Qwen2.5-Omni-7B, but a width of 1,024 instead of 3,584 and short prompts) end within
two minutes on two free CPU cores and stay below 4 GB. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("naive", "answers")


@dataclass(frozen=True)
class Problem:
    """Sizes of one comparison.

    Attributes:
        vocab: tokens.
        hidden: width of the decoder.
        batch: clips.
        length: tokens of a clip, answer included.
        answers: tokens of an answer, end token included.
        repeats: timed rounds.
        device: cpu or cuda.
        dtype: of states and head; the loss is computed in float32.
    """

    vocab: int = 152_064
    hidden: int = 1024
    batch: int = 4
    length: int = 256
    answers: int = 3
    repeats: int = 3
    device: str = "cpu"
    dtype: str = "float32"


def steps(problem: Problem) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """Per way, a function that runs forward and backward and returns the loss and the gradient of the states."""
    import torch
    from transformers.loss.loss_utils import ForCausalLMLoss

    from mosear.methods.answer_tuning.loss import IGNORE, answer_loss

    torch.manual_seed(0)
    place = {"device": problem.device, "dtype": getattr(torch, problem.dtype)}
    hidden = torch.randn(problem.batch, problem.length, problem.hidden, **place).requires_grad_()
    head = torch.nn.Linear(problem.hidden, problem.vocab, bias=False, **place).requires_grad_(False)
    labels = torch.full((problem.batch, problem.length), IGNORE, device=problem.device)
    labels[:, -problem.answers :] = torch.randint(
        problem.vocab, (problem.batch, problem.answers), device=problem.device
    )

    def naive() -> Tensor:
        return ForCausalLMLoss(head(hidden), labels, problem.vocab)

    def answers() -> Tensor:
        total, count = answer_loss(hidden, head, labels)
        return total / count

    def step(loss_of: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        loss = loss_of()
        (gradient,) = torch.autograd.grad(loss, hidden)
        return loss.detach(), gradient

    return {"naive": lambda: step(naive), "answers": lambda: step(answers)}


def check_equal(problem: Problem) -> None:
    """Both ways must give the same numbers, else comparing them says nothing."""
    import torch

    (loss, gradient), (own_loss, own_gradient) = (step() for step in steps(problem).values())
    tolerance = 1e-5 if problem.dtype == "float32" else 2e-2
    torch.testing.assert_close(own_loss, loss, rtol=tolerance, atol=tolerance)
    assert (own_gradient - gradient).norm() <= tolerance * gradient.norm()


def timed(problem: Problem) -> dict[str, list[float]]:
    """Seconds per round and way; the two alternate."""
    import torch

    ways = steps(problem)
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for round_ in range(problem.repeats + 1):
        for name in NAMES:
            start = time.perf_counter()
            ways[name]()
            if problem.device == "cuda":
                torch.cuda.synchronize()
            if round_:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_bytes(problem: Problem, name: str) -> int:
    """Memory of one step above weights and inputs; in a fresh process on the CPU, where a peak is never forgotten."""
    import torch

    step = steps(problem)[name]
    if problem.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    unit = 1 if sys.platform == "darwin" else 1024
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def peak_bytes_in_a_new_process(problem: Problem, name: str) -> int:
    """`peak_bytes` of one way, measured by this script started anew."""
    options = [f"--{key}={value}" for key, value in asdict(problem).items()]
    command = [sys.executable, __file__, *options, "--peak-of", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(problem: Problem) -> dict[str, object]:
    """Both measurements and their ratios (naive / answers)."""
    # Memory first: a child process starts with its parent's high-water mark, which is still low here.
    peak = {name: peak_bytes_in_a_new_process(problem, name) for name in NAMES}
    check_equal(problem)
    seconds = timed(problem)
    ratios = [slow / fast for slow, fast in zip(seconds["naive"], seconds["answers"], strict=True)]
    return {
        "problem": asdict(problem),
        "versions": versions(),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "peak_mib": {name: value / 2**20 for name, value in peak.items()},
        "time_ratio": statistics.median(ratios),
        "memory_ratio": peak["naive"] / max(1, peak["answers"]),
    }


def versions() -> dict[str, str]:
    """Libraries that decide the numbers."""
    import platform

    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": str(torch.get_num_threads()),
    }


def print_table(result: dict) -> None:
    """The measurements side by side."""
    print(f"{'':16s}{'naive':>12s}{'answers':>12s}{'ratio':>10s}")
    for title, key, ratio, digits in (
        ("seconds", "seconds", "time_ratio", 3),
        ("peak MiB", "peak_mib", "memory_ratio", 1),
    ):
        cells = "".join(f"{result[key][name]:12.{digits}f}" for name in NAMES)
        print(f"{title:16s}{cells}{result[ratio]:9.1f}x")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Problem):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    parser.add_argument("--peak-of", choices=NAMES, help="print the peak memory of one way in bytes, and nothing else")
    args = vars(parser.parse_args())
    one = args.pop("peak_of")
    problem = Problem(**args)
    if not 0 < problem.answers < problem.length:
        parser.error(f"--answers={problem.answers} must be between 1 and --length={problem.length} - 1.")
    if one:
        print(peak_bytes(problem, one))
        return
    result = compare(problem)
    print_table(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
