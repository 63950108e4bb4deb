"""From validation clips to a settings file for ``steering.settings``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf

from mosear.backbones.devices import chosen_device, device_problems
from mosear.backbones.sequences import thinker_of
from mosear.config.foreign import TRUST
from mosear.evaluation.runs import is_trained_adapter
from mosear.runtime.calibration_clips import Clips, backbone_config, chosen_clips, read_clips, validation_data
from mosear.runtime.run import Run
from mosear.settings import AtLeastOne, check
from mosear.steering.calibration.passes import ClipPasses, PassStore, model_fingerprint, settings_fingerprint
from mosear.steering.calibration.policy_search import keys_of
from mosear.steering.calibration.search import Board, Objective, Search, Trial, check_subsets
from mosear.steering.calibration.stages import Stages, under_name
from mosear.steering.session import SteeringSession
from mosear.steering.settings import SteeringSettings, adapter_fingerprint, policy_as_dict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mosear.backbones.backbone import OmniBackbone

DIGITS = 5
NO_STEERING = "none"


@dataclass(frozen=True)
class Calibration:
    """What to calibrate, and on which clips.

    Attributes:
        policy: key of a policy that has a search, or two joined by an underscore: ``ar``, ``chase``, ``ar_chase``. Also
            the name under which ``steering=`` uses the file.
        backbone: embedded name, checkpoint directory or hub id; with an adapter ``None`` = the run's own.
        adapter: a run's ``adapter/``; the run's ``config.yaml`` lies beside it. ``None`` = the bare backbone.
        out: the file; ``None`` = ``POLICY.json`` beside the adapter, or ``POLICY_BACKBONE.json`` here.
        manifest: ``None`` = the config's validation clips of every subset.
        limit: use this many clips, evenly spread over the manifest; ``None`` = all.
        objective: see :class:`mosear.steering.calibration.search.Board`.
        detector: of a policy that decides, such as CHASE.
        trials: try at most so many policies; ``None`` = as many as the search wants.
        head_clips: clips on which each single head is tried.
        batch_size: clips per step; ``None`` = the config's.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` = a GPU if there is one.
        trust_remote_code: run code that the backbone's checkpoint brings along; a run cannot ask for it.
        overwrite: replace an earlier file.
        overrides: of the config, as for ``eval.py``: ``data_dir=/scratch/data``.
    """

    policy: str
    backbone: str | None = None
    adapter: Path | None = None
    out: Path | None = None
    manifest: Path | None = None
    limit: AtLeastOne | None = None
    objective: Objective = "mean"
    detector: Literal["masked", "heads"] = "masked"
    trials: AtLeastOne | None = None
    head_clips: AtLeastOne = 200
    batch_size: AtLeastOne | None = None
    device: str | None = None
    trust_remote_code: bool = False
    overwrite: bool = False
    overrides: Sequence[str] = ()

    @property
    def target(self) -> Path:
        """Where the settings go."""
        if self.out is not None:
            return self.out
        if self.adapter is not None:
            return self.adapter.with_name(f"{self.policy}.json")
        return Path(f"{self.policy}_{Path(self.backbone or 'tiny-omni').name}.json")

    @property
    def work(self) -> Path:
        """Where finished passes are kept until the settings are written."""
        return self.target.with_name(f"{self.target.name}.work")

    def check(self) -> None:
        """Find every mistake that can be found before weights are loaded.

        Raises:
            ValueError: naming all of them.
        """
        check(self)

    def further_problems(self) -> list[str]:
        """What is wrong with the policy, the device and files."""
        problems = device_problems(self.device)
        try:
            keys_of(self.policy)
        except ValueError as error:
            problems.append(f"policy={self.policy!r}: {error}")
        if self.adapter is not None:
            give = "give the adapter/ directory of a run, as train.py leaves it"
            if not is_trained_adapter(self.adapter):
                problems.append(f"{self.adapter} is not a trained adapter (adapter_config.json is missing): {give}")
            if not (config := self.adapter.parent / "config.yaml").is_file():
                problems.append(f"{config} is missing: {give}")
        if self.target.suffix != ".json":
            problems.append(f"out={self.target} must end in .json")
        if self.target.exists() and not self.overwrite:
            problems.append(f"{self.target} exists; choose another --out, or replace it with --overwrite")
        return problems


@dataclass(frozen=True)
class Outcome:
    """What a calibration found.

    Attributes:
        settings: as saved.
        board: what the trials were scored on.
        chosen: the trial that won.
        rows: the table: unsteered, controls, the best of each stage, chosen.
    """

    settings: SteeringSettings
    board: Board
    chosen: Trial
    rows: Mapping[str, Trial]


def calibrate(calibration: Calibration, console: Console | None = None) -> Outcome:
    """Search, and write the settings file.

    Args:
        calibration: what to do.
        console: where progress is shown; ``None`` = nowhere.

    Raises:
        ValueError: see :meth:`Calibration.check`; and if the clips are not for validation, lack a subset, or cannot be
            read, or the backbone cannot be steered.
    """
    calibration.check()
    run = reopened(calibration)
    manifest = chosen_clips(run, calibration.manifest, calibration.limit)
    check_subsets((clip.subset for clip in manifest), calibration.objective)
    source = calibration.backbone if calibration.adapter is not None else None
    backbone = run.backbone(source, device=str(chosen_device(calibration.device)))
    network = run.network(backbone)
    data = validation_data(run, backbone, manifest, calibration.batch_size)
    with Meter(console) as meter:
        with meter.task("reading clips") as on_batch:
            clips = read_clips(backbone, network, data, on_batch)
        check_subsets((sample.clip.subset for sample in clips.samples), calibration.objective)
        store = PassStore(calibration.work, _fingerprint(run.cfg, backbone, clips))
        stages = _stages(calibration, run.cfg, backbone, clips, store, meter)
        chosen = stages.run(calibration.policy)
    rows = {"unsteered": stages.board.unsteered, **stages.controls(), **_best_of_stages(stages), "chosen": chosen}
    settings = _settings(calibration, run, clips, stages, rows)
    calibration.target.parent.mkdir(parents=True, exist_ok=True)
    settings.save(calibration.target)
    store.remove()
    return Outcome(settings, stages.board, chosen, rows)


def reopened(calibration: Calibration) -> Run:
    """The run of the adapter, or a bare backbone as ``eval.py`` would compose it."""
    if calibration.adapter is not None:
        return Run.open(calibration.adapter, calibration.overrides, trust_remote_code=calibration.trust_remote_code)
    name, overrides = calibration.backbone or "tiny-omni", [*calibration.overrides]
    if calibration.trust_remote_code:
        overrides.append(f"{TRUST}=true")
    return Run(backbone_config(name, calibration.manifest, overrides))


def _fingerprint(cfg: DictConfig, backbone: OmniBackbone, clips: Clips) -> str:
    """Of everything that the result of a pass depends on; paths and speeds are not among it."""
    keys = ("prompt", "budget", "interleave", "max_pixels", "max_tokens")
    data = {key: OmegaConf.to_container(cfg.data, resolve=True).get(key) for key in keys}  # type: ignore[union-attr]
    how = [str(backbone.device), str(cfg.trainer.get("precision")), clips.data.eval_batch_size, torch.__version__]
    return settings_fingerprint([model_fingerprint(thinker_of(backbone)), clips.split_hash, data, how])


def _stages(
    calibration: Calibration,
    cfg: DictConfig,
    backbone: OmniBackbone,
    clips: Clips,
    store: PassStore,
    meter: Meter,
) -> Stages:
    # Asks whether this backbone can be steered at all, before any pass.
    probe = SteeringSession(backbone, under_name(None, calibration.policy))
    trie = clips.trie
    fabric = Fabric(
        accelerator="gpu" if backbone.device.type == "cuda" else "cpu",
        devices=1,
        precision=cfg.trainer.get("precision"),
    )
    with meter.task("unsteered answers and unimodal readings") as on_batch:
        passes = ClipPasses(
            backbone,
            clips.samples,
            trie,
            clips.data.builder.pad_id,
            store,
            batch_size=clips.data.eval_batch_size,
            autocast=fabric.autocast,
            on_batch=on_batch,
        )
    passes.on_batch = meter.clips
    shown = [sample.clip for sample in clips.samples]
    board = Board(
        [clip.subset for clip in shown],
        [trie.labels.index(str(clip.label)) for clip in shown],
        passes.unsteered.double().numpy(),
        calibration.objective,
    )
    search = Search(board, passes.answers, calibration.trials, meter.track)
    return Stages(
        passes, board, search, shown, probe.layers, probe.heads, calibration.head_clips, meter.track,
        detector=calibration.detector,
    )  # fmt: skip


def _best_of_stages(stages: Stages) -> dict[str, Trial]:
    """By family of stages (``ar``, ``chase``, ...), the best trial that loses nothing."""
    found: dict[str, Trial] = {}
    for trial in stages.search.trials:
        name = trial.stage.partition(",")[0]
        if stages.board.loses_nothing(trial) and (name not in found or trial.objective > found[name].objective):
            found[name] = trial
    return found


def _settings(
    calibration: Calibration, run: Run, clips: Clips, stages: Stages, rows: Mapping[str, Trial]
) -> SteeringSettings:
    chosen, adapter = rows["chosen"], calibration.adapter
    scores = {
        "objective": calibration.objective,
        "clips": {**stages.board.counts, "unreadable": clips.bad},
        "chose": _described(chosen),
        **{name: _numbers(rows[name]) for name in ("unsteered", *stages.controls(), "chosen")},
        **stages.notes,
    }
    trials = [
        {
            "stage": trial.stage,
            "objective": round(trial.objective, DIGITS),
            "loses_nothing": stages.board.loses_nothing(trial),
            "proven": stages.board.proven(trial),
            "change": round(trial.change, DIGITS),
            "accuracy": {name: round(value, DIGITS) for name, value in trial.accuracy.items()},
            "policy": policy_as_dict(trial.policy) if trial.policy is not None else None,
        }
        for trial in stages.search.trials
    ]
    return SteeringSettings(
        under_name(chosen.policy, calibration.policy),
        run.name,
        clips.split_hash,
        scores,
        None if adapter is None else adapter_fingerprint(adapter),
        tuple(trials),
    )


def _numbers(trial: Trial) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in {"objective": trial.objective, **trial.accuracy}.items()}


def _described(trial: Trial) -> str:
    return NO_STEERING if trial.policy is None else "_".join(policy_as_dict(trial.policy))


def result_table(outcome: Outcome) -> Table:
    """Accuracies in percent: unsteered, late fusion, the best of each stage, chosen."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"validation accuracy; objective: {outcome.board.objective}")
    for heading in ("", *outcome.board.counts, "objective", "change"):
        # Text, not str: rich would read markup such as [red] in a subset name.
        shown = Text(heading.replace("_", " "), style="table.header")
        table.add_column(shown, justify="right" if heading else "left", no_wrap=not heading)
    for name, trial in outcome.rows.items():
        accuracies = [f"{100 * value:.1f}" for value in trial.accuracy.values()]
        change = "" if name.startswith("late_fusion") else f"{trial.change:.3f}"
        style = "bold" if name == "chosen" else None
        table.add_row(name.replace("_", " "), *accuracies, f"{100 * trial.objective:.1f}", change, style=style)
    return table


class Meter:
    """Progress with the time that is left: of the stage, and of the pass within it.

    Args:
        console: where to; ``None`` = nowhere.
    """

    def __init__(self, console: Console | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=console is None)
        self._pass = self.progress.add_task("  clips of this pass", total=None, visible=False)

    def __enter__(self) -> Meter:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.update(self._pass, visible=False)
        self.progress.stop()

    @contextmanager
    def task(self, name: str) -> Iterator[Any]:
        """One thing whose parts report how many clips are done, and of how many."""
        number = self.progress.add_task(name, total=None)
        yield lambda done, total: self.progress.update(number, completed=done, total=total)

    def track(self, items: Sequence[Any], stage: str) -> Iterable[Any]:
        """The items, one by one."""
        number = self.progress.add_task(stage, total=len(items))
        for item in items:
            yield item
            self.progress.advance(number)

    def clips(self, done: int, total: int) -> None:
        """Of the pass that runs."""
        self.progress.update(self._pass, completed=done, total=total, visible=done < total)


def readable(outcome: Outcome) -> str:
    """What was chosen, in words."""
    if outcome.chosen.policy is None:
        return "No steering was chosen: nothing that was tried is better without losing consistent clips."
    return f"chosen: {json.dumps(outcome.settings.scores['chose'])} ({outcome.chosen.stage})"
