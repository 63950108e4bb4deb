"""What steered attention costs beside the kernel it runs on: ``python -m benchmarks.steering``.

Four ways, side by side in one process, random weights, shapes of Qwen2.5-Omni-7B (28 heads, 4 key/value heads of 128):

* sdpa: nothing is steered;
* ar: attention reallocation with its defaults, statistics kept (``record=True``);
* chase: CHASE in all heads, its readings given, statistics kept;
* eager: transformers' own attention with the whole matrix, ``output_attentions=True``.

Two parts: ``attention``, the attention function of one layer; ``model``, whole decoder layers with their projections
and MLPs, as an application meets it. In each, ``prefill`` reads a prompt (5/8 picture, 1/4 sound, text; after the last
media token comes the tail that is steered), and ``decode`` continues its cache by single tokens.

Time: the ways alternate, in rotating order, after a warm-up of each. A ratio is the median over rounds, with its
bootstrap interval (95 %). Memory: the peak of one call above what lives before it; *extra* is what steering adds to
sdpa's. Where the matrices would exceed ``--eager-gib`` eager is left out, and one matrix, which it needs at least,
stands for its peak. First of all, ways that must agree are compared.

The defaults take hours on a CPU; ``--parts attention --tokens 512`` ends within minutes. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import eager_attention_forward

from benchmarks.side_by_side import add_options, check_options, medians, peak_bytes, ratios, run_cases, timed
from benchmarks.thinkers import random_thinker
from mosear.backbones.families import family_of
from mosear.backbones.sequences import sequence_state
from mosear.roles import TokenRole
from mosear.steering import AttentionReallocation, Chase, Policy, steer
from mosear.steering.attention import steered_attention
from mosear.steering.passes import SteeredPass
from mosear.steering.rows import SteeredRows
from mosear.steering.stats import SequenceRecord, Totals

WAYS = ("sdpa", "ar", "chase", "eager")
PARTS = ("attention", "model")
PHASES = ("prefill", "decode")
HEADS, GROUPS, SIZE = 28, 4, 128
DECODED = 32
CHASE = Chase(conflict_threshold=0.0, strength=4.0)
READINGS = {"audio": torch.tensor([[0.9, 0.1]]), "visual": torch.tensor([[0.2, 0.8]])}
STEERED: dict[str, Policy] = {"ar": AttentionReallocation(), "chase": CHASE}
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison.

    Attributes:
        part: one of ``PARTS``.
        phase: one of ``PHASES``.
        dtype: of weights and states.
        tokens: of a prompt.
        tail: of these, how many follow the media.
        batch: prompts.
        layers: of ``model``.
        width: of the hidden states in ``model``.
        mlp: width of its MLPs.
        eager: run eager, too.
        device: cpu or cuda.
    """

    part: str
    phase: str
    dtype: str
    tokens: int
    tail: int = 30
    batch: int = 1
    layers: int = 2
    width: int = 3584
    mlp: int = 18944
    eager: bool = True
    device: str = "cpu"

    @property
    def ways(self) -> tuple[str, ...]:
        """Those that are run."""
        return WAYS if self.eager else WAYS[:-1]

    @property
    def matrix_bytes(self) -> int:
        """Of one layer's attention matrix."""
        queries = self.tokens if self.phase == "prefill" else 1
        return self.batch * HEADS * queries * self.tokens * self.place()["dtype"].itemsize

    def place(self) -> dict[str, Any]:
        """Device and floating type."""
        return {"device": self.device, "dtype": getattr(torch, self.dtype)}

    def roles(self) -> Tensor:
        """``[B, L]``: pictures, text, sound, and the tail."""
        roles = torch.full((self.batch, self.tokens), int(TokenRole.TEXT), device=self.device)
        roles[:, : self.tokens * 5 // 8] = int(TokenRole.VISUAL)
        roles[:, -self.tail - self.tokens // 4 : -self.tail] = int(TokenRole.AUDIO)
        return roles


@dataclass
class Runs:
    """One case, ready to run.

    Attributes:
        step: runs a way once; returns its output.
        still: runs the way ``sdpa`` with a policy that moves nothing, which must give the same.
        rewind: called before a round, outside its time.
    """

    step: Callable[[str], Tensor]
    still: Callable[[], Tensor]
    rewind: Callable[[int], None]


def a_pass(case: Case, policy: Policy, roles: Tensor) -> SteeredPass:
    """What a session hands to every layer of a pass, statistics included."""
    if case.phase == "prefill":
        rows = SteeredRows.after_media(roles, torch.ones_like(roles, dtype=torch.bool))
    else:
        rows = SteeredRows.after_prompt(roles, 1)
    totals, record = Totals(1, HEADS), SequenceRecord(1, HEADS)

    def note(layer: int, sums: Tensor, counts: Tensor) -> None:
        totals.add(layer, sums, counts)
        record.add(layer, sums, counts)

    state = CHASE.decide(READINGS).bonus.to(case.device).expand(case.batch, -1) if policy is CHASE else None
    return SteeredPass(policy, rows, roles, state=state, note=note)


@contextmanager
def attention_runs(case: Case) -> Iterator[Runs]:
    """One call of the attention function; what a pass prepares once for all layers is not part of it."""
    torch.manual_seed(0)
    prefill, roles = case.phase == "prefill", case.roles()
    queries, keys = (case.tokens, case.tokens) if prefill else (1, case.tokens + DECODED // 2)
    query = torch.randn(case.batch, HEADS, queries, SIZE, **case.place())
    key, value = (torch.randn(case.batch, GROUPS, keys, SIZE, **case.place()) for _ in range(2))
    about = {"layer_idx": 0, "num_key_value_groups": HEADS // GROUPS, "is_causal": True, "training": False}
    layer: Any = SimpleNamespace(config=SimpleNamespace(), **about)
    mask = None
    if prefill and case.eager:
        mask = torch.full((queries, keys), torch.finfo(query.dtype).min, **case.place()).triu(1)[None, None]
    passes = {way: a_pass(case, policy, roles) for way, policy in STEERED.items()}
    scaling = SIZE**-0.5

    def step(way: str) -> Tensor:
        if way == "eager":
            return eager_attention_forward(layer, query, key, value, mask, scaling)[0]
        return steered_attention(layer, query, key, value, None, steering=passes.get(way), scaling=scaling)[0]

    def still() -> Tensor:
        nothing = a_pass(case, AttentionReallocation(threshold=0.0, portion=0.0), roles)
        return steered_attention(layer, query, key, value, None, steering=nothing, scaling=scaling)[0]

    yield Runs(step, still, lambda number: None)


def thinker_of_size(case: Case) -> Any:
    """A thinker with the layers of a case."""
    text = {"num_hidden_layers": case.layers, "hidden_size": case.width, "intermediate_size": case.mlp}
    text |= {"num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "head_dim": SIZE}
    return random_thinker(case.place(), **text).eval()


class Decoder:
    """One way's decoder, its KV cache, and how to run them.

    Args:
        case: its sizes.
        thinker: shares its weights with those of other ways.
        options: further arguments of the decoder.
    """

    def __init__(self, case: Case, thinker: Any, **options: Any) -> None:
        self.case, self.thinker, self.options = case, thinker, options
        self.module = thinker.get_submodule(family_of(thinker.config.model_type).language_model_path)
        self.cache: Any = None

    def read(self, states: Tensor) -> Tensor:
        """Prefill."""
        self.cache = transformers.DynamicCache(config=self.module.config)
        everything = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        with sequence_state(self.thinker, roles=self.case.roles(), prompt_mask=everything):
            return self.go_on(states)

    def go_on(self, states: Tensor) -> Tensor:
        """More tokens ``[B, Q, width]`` behind what is cached."""
        start = self.cache.get_seq_length()
        positions = torch.arange(start, start + states.shape[1], device=states.device)
        given = {"inputs_embeds": states, "position_ids": positions.expand(3, len(states), -1)}
        return self.module(**given, past_key_values=self.cache, use_cache=True, **self.options).last_hidden_state


@contextmanager
def model_runs(case: Case) -> Iterator[Runs]:
    """Passes through decoder layers; a session is open for each steered way, and each decodes on a cache of its own."""
    thinker = thinker_of_size(case)
    shared = {id(parameter): parameter for parameter in thinker.parameters()}  # copies keep these
    states = torch.randn(case.batch, case.tokens, case.width, **case.place())
    token = torch.randn(case.batch, 1, case.width, **case.place())
    decoders = {}
    with ExitStack() as stack:
        for way in case.ways:
            own = deepcopy(thinker, dict(shared))
            decoders[way] = Decoder(case, own, **({"output_attentions": True} if way == "eager" else {}))
            own.set_attn_implementation({"text_config": "eager" if way == "eager" else "sdpa"})
            if way in STEERED:
                session = stack.enter_context(steer(own, STEERED[way]))
                stack.enter_context(session.given(readings=READINGS))  # AR does not look at them

        def run(decoder: Decoder) -> Tensor:
            return decoder.read(states) if case.phase == "prefill" else decoder.go_on(token)

        def still() -> Tensor:
            with steer(thinker, AttentionReallocation(threshold=0.0, portion=0.0)):
                decoder = Decoder(case, thinker)
                read = decoder.read(states)
                return read if case.phase == "prefill" else decoder.go_on(token)

        def rewind(number: int) -> None:
            if case.phase == "prefill":
                return
            for decoder in decoders.values():
                if decoder.cache is None:
                    decoder.read(states)
                elif number % DECODED == 0:
                    decoder.cache.crop(case.tokens - decoder.cache.get_seq_length())  # minus so many

        yield Runs(lambda way: run(decoders[way]), still, rewind)


def check_equal(case: Case, runs: Runs) -> None:
    """Ways that must agree do, and steering does something."""
    runs.rewind(0)
    found = {way: runs.step(way).float() for way in case.ways}
    plain = found["sdpa"]
    for other in [runs.still().float()] + ([found["eager"]] if case.eager else []):
        assert (other - plain).norm() <= TOLERANCE[case.dtype] * plain.norm()
    assert not torch.allclose(found["chase"][:, -1], plain[:, -1], rtol=1e-2, atol=1e-3)
    for way in STEERED:
        assert found[way][:, : -case.tail].equal(plain[:, : -case.tail]), "rows of media are the kernel's own"


def interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """Where 95 % of the medians of resampled values lie."""
    own = torch.tensor(values, dtype=torch.float64)
    drawn = torch.randint(len(own), (draws, len(own)), generator=torch.Generator().manual_seed(0))
    low, high = own[drawn].median(dim=1).values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


@torch.no_grad()
def compare(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Every measurement of a case."""
    with {"attention": attention_runs, "model": model_runs}[case.part](case) as runs:
        check_equal(case, runs)
        rounds = args.repeats if case.phase == "prefill" else args.repeats * DECODED
        seconds = timed(case.ways, runs.step, rounds, args, before_round=runs.rewind)
        runs.rewind(0)
        peaks = {way: peak_bytes(case.device, runs.step, way) for way in case.ways}
    relative = ratios(seconds, "sdpa")
    eager = peaks.get("eager", case.matrix_bytes)
    return {
        "case": asdict(case),
        "n": len(seconds["sdpa"]),
        "seconds": medians(seconds),
        "time_ratio": medians(relative),
        "time_interval": {way: interval(values) for way, values in relative.items()},
        "peak_mib": {way: peak / 2**20 for way, peak in peaks.items()},
        "extra_mib": {way: max(0, peaks[way] - peaks["sdpa"]) / 2**20 for way in STEERED},
        "extra_to_eager": {way: max(0, peaks[way] - peaks["sdpa"]) / eager for way in STEERED},
    }


HEAD = (
    "| | | tokens | dtype | n | SDPA ms | AR | CHASE | eager | AR extra MiB | of eager's |\n"
    "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|"
)


def row(found: dict[str, Any]) -> str:
    """One line of the table; times are ratios to SDPA."""
    case = found["case"]
    cells = [case["part"], case["phase"], f"{case['tokens']:,}", case["dtype"], str(found["n"])]
    cells.append(f"{1000 * found['seconds']['sdpa']:.3g}")
    for way in WAYS[1:]:
        low, high = found["time_interval"].get(way, (0, 0))
        cells.append(f"{found['time_ratio'][way]:.2f} ({low:.2f}-{high:.2f})" if way in found["time_ratio"] else "")
    bound = "" if case["eager"] else "< "
    share = f"{bound}{100 * found['extra_to_eager']['ar']:.2f} %" if case["phase"] == "prefill" else ""
    cells += [f"{found['extra_mib']['ar']:.1f}", share]
    return f"| {' | '.join(cells)} |"


def cases(args: argparse.Namespace) -> list[Case]:
    """All combinations that were asked for."""
    found = []
    for part, dtype, tokens, phase in itertools.product(args.parts, args.dtypes, args.tokens, args.phases):
        sizes = {"tail": args.tail, "batch": args.batch, "layers": args.layers, "width": args.width, "mlp": args.mlp}
        prompt = Case(part, "prefill", dtype, tokens, device=args.device, **sizes)
        kept = args.layers if part == "model" else 1
        eager = kept * prompt.matrix_bytes <= args.eager_gib * 2**30
        found.append(Case(part, phase, dtype, tokens, device=args.device, eager=eager, **sizes))
    return found


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[512, 2048, 8192], help="of the prompt")
    parser.add_argument("--dtypes", nargs="+", choices=list(TOLERANCE), default=list(TOLERANCE))
    parser.add_argument("--tail", type=int, default=30, help="prompt tokens after the media: steered rows of a prefill")
    parser.add_argument("--batch", type=int, default=1, help="prompts")
    parser.add_argument("--layers", type=int, default=2, help="of the model")
    for name, default in (("--width", 3584), ("--mlp", 18944)):
        parser.add_argument(name, type=int, default=default, help="of the model's hidden states and MLPs")
    parser.add_argument("--eager-gib", type=float, default=1.0, help="leave eager out where its matrices are larger")
    add_options(parser, rounds=f"rounds per case; one decodes {DECODED} tokens")
    args = parser.parse_args(argv)
    if args.tail < 1 or 4 * args.tail > min(args.tokens):
        parser.error(f"--tail={args.tail} must be 1 or more, and a quarter of --tokens={min(args.tokens)} at most.")
    check_options(parser, args)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    args = parsed(argv)
    run_cases(args, cases(args), lambda case: compare(case, args), row, HEAD, (torch, transformers))


if __name__ == "__main__":
    main()
