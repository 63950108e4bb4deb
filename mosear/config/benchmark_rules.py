"""Whether a benchmark's manifest, labels and metrics fit together, found before weights load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mosear.problems import Problem

if TYPE_CHECKING:
    from mosear.data.clip import Clip
    from mosear.data.manifest import Manifest
    from mosear.evaluation.predictions import Kind
    from mosear.fusion.tasks import Task

_CLIPS_LOOKED_FOR = 20
CORPUS = "mosear.data.synthetic.corpus.ensure_corpus"
"""What renders the clips of ``benchmark=synthetic``."""


def task_of(cfg: DictConfig) -> Task | None:
    """What a fusion model predicts; an omni-modal model names one label and has no task.

    ``None`` as well for one whose settings are wrong, which :func:`task_is_sound` tells.
    """
    if cfg.get("task") is None:
        return None
    from mosear.fusion.build import build_task

    try:
        return build_task(cfg)
    except ValueError:
        return None


def task_is_sound(cfg: DictConfig) -> Iterator[Problem]:
    """The settings of a fusion model's task fit together and to the labels."""
    if cfg.get("task") is not None:
        from mosear.fusion.build import build_task

        try:
            build_task(cfg)
        except ValueError as error:
            yield Problem("task", "", str(error), "Correct the task's settings; its YAML explains each one.")


def _kind(cfg: DictConfig) -> Kind:
    from mosear.config.targets import resolve_target
    from mosear.evaluation.predictions import LABEL, SCORE

    answers: Kind = SCORE if cfg.data.get("answer_from") == SCORE else LABEL
    kind: Kind = answers if cfg.get("task") is None else resolve_target(cfg.task._target_).name
    return kind


def metrics_are_known(cfg: DictConfig) -> Iterator[Problem]:
    """``benchmark.metrics`` names metrics, and those that need numbers find a score for every label."""
    from mosear.evaluation.benchmark_metrics import METRICS, wrong_levels

    names = cfg.benchmark.get("metrics") or []
    if not isinstance(names, ListConfig | list):
        yield Problem("benchmark.metrics", names, "not a list of names", f"Write 'benchmark.metrics=[{names}]'.")
        return
    for name in names:
        if name not in METRICS:
            yield Problem("benchmark.metrics", name, "no such metric", f"There are {', '.join(METRICS)}.")
    kind = _kind(cfg)
    for name in names:
        if name in METRICS and (unfit := METRICS[name].unfit(kind)):
            fitting = ", ".join(other for other, metric in METRICS.items() if metric.unfit(kind) is None)
            yield Problem("benchmark.metrics", name, unfit, f"Choose among {fitting}, or another task.")
    needing = [name for name in names if name in METRICS and METRICS[name].needs_levels(kind)]
    wrong = wrong_levels(cfg.data.prompt.labels, cfg.benchmark.get("levels") or {})
    if needing and wrong:
        yield Problem(
            "benchmark.levels", cfg.benchmark.get("levels"), f"{', '.join(needing)}: {wrong}",
            "Say what each label stands for, e.g. 'benchmark.levels={negative: -1.5, neutral: 0, positive: 1.5}'.",
        )  # fmt: skip
    for name in names:
        if name in METRICS and METRICS[name].text and cfg.answering.get("method") != "generate":
            yield Problem(
                "benchmark.metrics", name, "reads the words of generated answers, but labels are scored",
                "Evaluate with answering.method=generate.",
            )  # fmt: skip


def benchmark_clips_fit(cfg: DictConfig) -> Iterator[Problem]:
    """The clips have the split, labels, media and columns that the benchmark needs.

    Manifests without requirements (no split, no metrics), or that are rendered later, are not opened.
    """
    from mosear.config.manifest_rules import answered
    from mosear.data.manifest import ManifestError, load_manifest

    split, path = cfg.benchmark.get("split"), cfg.data.get("test")
    if (split is None and not cfg.benchmark.get("metrics")) or path is None:
        return
    if not Path(path).is_file():
        if cfg.data.get("prepare") is not None and split is not None:
            yield Problem(
                "benchmark.manifest", path, "no such file",
                "Make it with python -m mosear prepare (docs/benchmarks.md has the commands).",
            )  # fmt: skip
        return
    try:
        manifest = answered(load_manifest(path, root=cfg.data.get("root")), cfg)
    except ManifestError as error:
        yield Problem("benchmark.manifest", path, str(error), "Correct the manifest, or make it again.")
        return
    clips = list(manifest)
    yield from _media_is_there(cfg, manifest)
    foreign = Counter(clip.split for clip in clips if split is not None and clip.split != split)
    if foreign:
        listed = ", ".join(f"{count} {name}" for name, count in foreign.items())
        yield Problem(
            "benchmark.manifest", path, f"lists {listed} clips beside those of the {split} split",
            f"Make it with --split {split}, or one manifest per split with {{split}} in --out.",
        )  # fmt: skip
    if (task := task_of(cfg)) is None and cfg.get("task") is not None:
        return
    if (problem := _clips_suit(cfg, clips, task)) is not None:
        yield problem
        return
    yield from _metrics_find_what_they_read(cfg, clips, task)


def _clips_suit(cfg: DictConfig, clips: Sequence[Clip], task: Task | None) -> Problem | None:
    """Whether the clips have what is to be predicted, in terms of the labels that are asked for."""
    labels = list(cfg.data.prompt.labels)
    remedy = "Ask for all labels of the benchmark, or leave these clips out of the manifest."
    if task is not None:
        found = [(clip.id, problem) for clip in clips if (problem := task.problem(clip)) is not None]
        if not found:
            return None
        (first, reason), count = found[0], f"{len(found):,} of {len(clips):,} clips"
        told = f"task={task.name} cannot test {count}, such as {first!r}: {reason}"
        return Problem("benchmark.manifest", cfg.data.test, told, f"{remedy} Or choose another task.")
    if outside := sorted({clip.label or "(none)" for clip in clips} - set(labels)):
        return Problem("data.prompt.labels", labels, f"the clips have the labels {', '.join(outside)} too", remedy)
    return None


def _media_is_there(cfg: DictConfig, manifest: Manifest) -> Iterator[Problem]:
    """A wrong ``data.root`` makes every clip a bad one; a few files are enough to tell."""
    paths = [path for clip in islice(manifest, _CLIPS_LOOKED_FOR) for path in manifest.resolve(clip)]
    files = [path for path in paths if isinstance(path, Path)]
    if files and not any(file.is_file() for file in files):
        yield Problem(
            "data.root", cfg.data.get("root"), f"none of the first media files is there, such as {files[0]}",
            "Set data.root to the directory that was given to mosear.data.prepare as --root.",
        )  # fmt: skip


def _metrics_find_what_they_read(cfg: DictConfig, clips: Sequence[Clip], task: Task | None) -> Iterator[Problem]:
    """Metrics complain about clips, never about answers: so they are tried on clips without any answer."""
    from mosear.evaluation.benchmark_metrics import METRICS, Answers, benchmark_scores
    from mosear.evaluation.predictions import SCORE, PredictionRow

    if next(metrics_are_known(cfg), None) is not None:
        return

    def scores(clip: Clip) -> dict[str, Any]:
        return {"score": clip.score} if _kind(cfg) == SCORE else {}

    rows = [
        PredictionRow(
            id=clip.id, subset=clip.subset, prediction=None, unparsed_reason="not asked yet",
            benchmark=cfg.benchmark.name, model="zero_shot",
            **({"label": str(clip.label), **scores(clip)} if task is None else task.truth(clip)),
        )
        for clip in clips
    ]  # fmt: skip
    levels: Any = OmegaConf.to_object(cfg.benchmark.levels) if cfg.benchmark.get("levels") else {}
    assert isinstance(levels, dict)
    answers = Answers(
        rows=rows, labels=list(cfg.data.prompt.labels), clips={clip.id: clip for clip in clips}, levels=levels
    )
    subsets = {clip.subset for clip in clips}
    for name in cfg.benchmark.metrics or []:
        if absent := [subset for subset in METRICS[name].subsets if subset not in subsets]:
            lacks = f"needs the subsets {', '.join(absent)}; there are {', '.join(sorted(subsets))}"
            yield Problem(
                "benchmark.metrics", name, lacks,
                "Choose a conflict rule that names them (mosear.data.prepare --rule), or leave the metric out.",
            )  # fmt: skip
            continue
        try:
            benchmark_scores([name], answers)
        except ValueError as error:
            yield Problem(
                "benchmark.metrics", name, str(error), "Add what is missing to the manifest, or leave the metric out."
            )


def benchmark_is_chosen(cfg: DictConfig) -> Iterator[Problem]:
    """Other clips than those of ``data=synthetic`` are not tested on its corpus because no benchmark was named."""
    prepare = cfg.data.get("prepare")
    if cfg.benchmark.name != "synthetic" or (prepare is not None and prepare.get("_target_") == CORPUS):
        return
    if cfg.data.get("test") is None or cfg.data.test != cfg.benchmark.get("manifest"):
        return
    own = "benchmark=manifest benchmark.manifest=test.parquet"
    if prepare is not None:
        own = "the benchmark of these clips, such as benchmark=synthetic_blends for data=synthetic_blends"
    yield Problem(
        "benchmark", "synthetic", "no benchmark is chosen, so your model would be tested on the synthetic corpus",
        f"Add {own}, or another benchmark=NAME.",
    )  # fmt: skip


def corpus_is_needed(cfg: DictConfig) -> Iterator[Problem]:
    """Recipes for the synthetic corpus render it, also where another benchmark is evaluated."""
    if cfg.benchmark.get("split") is not None and cfg.data.get("prepare") is not None:
        yield Problem(
            "data.prepare", cfg.data.prepare.get("_target_"),
            f"would render the synthetic corpus, which benchmark={cfg.benchmark.name} does not read",
            "Add data=test to the command.",
        )  # fmt: skip


def training_has_clips(cfg: DictConfig) -> Iterator[Problem]:
    """``data=test`` has nothing to train on."""
    if cfg.data.get("train") is None:
        yield Problem(
            "data.train", None, "there are no clips to train on",
            "Use data=manifest data.train=... data.val=..., or data=synthetic.",
        )  # fmt: skip
