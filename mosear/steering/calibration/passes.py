"""The passes of a calibration: each is run once, kept on disk until the end, and only over clips that it can change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mosear.data.sample import Sample, collate
from mosear.files import written_atomically
from mosear.inference.scoring import label_log_probs
from mosear.inference.unimodal import predictions_alone
from mosear.steering import Policies, Policy, steer
from mosear.steering.calibration.search import FloatArray
from mosear.steering.settings import policy_as_dict

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.backbones.labels import LabelTrie
    from mosear.data.sample import OmniBatch
    from mosear.steering.policies.detection import Detection
    from mosear.steering.policies.reliability import Readings

SAMPLED = 64
"""Values of each weight that enter the fingerprint of a model: enough to tell any two apart, quick for large ones."""


class PassStore:
    """Results of finished passes, one file each, so that an interrupted calibration goes on where it was.

    Args:
        directory: of the files; made when the first one is saved.
        fingerprint: of everything that results depend on. Files of another calibration are never found.
    """

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self.directory, self.fingerprint = directory, fingerprint
        self.found = self.saved = 0

    def get(self, name: str, run: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The results called ``name``: those of an earlier call, or of ``run()``."""
        key = hashlib.sha256(f"{self.fingerprint}\n{name}".encode()).hexdigest()[:24]
        path = self.directory / f"{key}.safetensors"
        if path.is_file():
            self.found += 1
            return load_file(path)
        results = run()
        self.directory.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as temporary:
            save_file({key: value.contiguous() for key, value in results.items()}, temporary)
        self.saved += 1
        return results

    def remove(self) -> None:
        """Delete the files, and the directory if nothing else lies in it."""
        for path in self.directory.glob("*.safetensors"):
            path.unlink()
        if self.directory.is_dir() and not any(self.directory.iterdir()):
            self.directory.rmdir()


class ClipPasses:
    """Answers fixed clips under any policy.

    Args:
        backbone: with an adapter injected, if any; in eval mode.
        samples: ``N`` prompts with encoded media, on the CPU.
        trie: the candidate labels.
        pad_id: for collation.
        store: keeps results.
        batch_size: clips per pass of the model.
        autocast: context for the run's precision.
        on_batch: told how many clips are done, and of how many.

    Attributes:
        unsteered: float32 ``[N, C]`` log-probabilities.
        readings: ``[N, C]`` label distributions of single modalities, NaN rows where absent.
    """

    def __init__(
        self,
        backbone: OmniBackbone,
        samples: Sequence[Sample],
        trie: LabelTrie,
        pad_id: int,
        store: PassStore,
        *,
        batch_size: int,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        on_batch: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.backbone, self.samples, self.trie, self.pad_id, self.store = backbone, samples, trie, pad_id, store
        self.batch_size, self.autocast, self.on_batch = batch_size, autocast, on_batch
        every = torch.arange(len(samples))
        self.both = torch.tensor([bool(s.media.videos) and bool(s.media.audios) for s in samples])
        self.unsteered = self.store.get("unsteered", lambda: self._over(every, self._plain))["log_probs"]
        self.readings = self.store.get("readings", lambda: self._over(every, self._alone))
        self._known: dict[tuple[Policy, int, tuple[float, ...]], Tensor] = {}

    def answers(self, policy: Policy, where: Tensor | None = None) -> FloatArray:
        """``[M, C]`` log-probabilities of the clips ``where`` (int64 ``[M]``; ``None`` = all).

        Clips without face or voice keep their unsteered answer if the policy needs both, and so do those about which
        it decides nothing. What a clip's answer depends on is the attention that is edited and the bonus that was
        decided on: a pass that has been run for the same is not repeated.
        """
        where = torch.arange(len(self.samples)) if where is None else where
        result = self.unsteered.clone()
        rest = where[self.both[where]] if all(step.needs_both for step in policy.steps) else where
        detection = policy.detection
        if detection is not None:
            readings = self.readings_of(detection)
            bonus = detection.decide(readings, None).bonus
            told = (bonus[rest] != 0).any(-1)
            self._fill(result, rest[told], policy, readings, bonus)
            rest = rest[~told]
        others = [step for step in policy.steps if step.detection is None and not step.idle(None)]
        if others:
            alone = others[0] if len(others) == 1 else Policies(others)
            self._fill(result, rest, alone, {}, torch.zeros(len(result), 2))
        found: FloatArray = result[where].double().numpy()
        return found

    def readings_of(self, detection: Detection) -> Readings:
        """What a policy would read from each modality: ``[N, C]`` each."""
        if detection.detector == "masked":
            return self.readings
        return self.heads_readings(detection, torch.arange(len(self.samples)))

    def heads_readings(self, detection: Detection, where: Tensor) -> dict[str, Tensor]:
        """What the evidence heads say about some clips: ``[M, C]`` by modality."""

        def run() -> dict[str, Tensor]:
            with steer(self.backbone, detection.silent, self.trie) as session:

                def read(batch: OmniBatch, _: Tensor) -> dict[str, Tensor]:
                    label_log_probs(self.backbone, batch, self.trie)
                    assert session.last is not None
                    missing = torch.full((len(batch), len(self.trie.labels)), float("nan"))
                    found = session.last.readings or {}
                    return {name: found.get(name, missing) for name in ("audio", "visual", "text")}

                return self._over(where, read)

        return self.store.get(f"evidence {json.dumps(policy_as_dict(detection.silent))} of {_digest(where)}", run)

    # -- running ----------------------------------------------------------------------------------------------------

    def _fill(self, result: Tensor, rows: Tensor, policy: Policy, readings: Readings, bonus: Tensor) -> None:
        edited = _edits(policy)
        keys = {row: (edited, row, tuple(bonus[row].tolist())) for row in rows.tolist()}
        missing = torch.tensor([row for row, key in keys.items() if key not in self._known], dtype=torch.long)
        if len(missing):
            name = f"{json.dumps(policy_as_dict(edited))} of {_digest(missing)} with {_digest(bonus[missing])}"
            found = self.store.get(name, lambda: self._steered(missing, policy, readings))["log_probs"]
            self._known.update({keys[row]: own for row, own in zip(missing.tolist(), found, strict=True)})
        for row, key in keys.items():
            result[row] = self._known[key]

    def _steered(self, rows: Tensor, policy: Policy, readings: Readings) -> dict[str, Tensor]:
        with steer(self.backbone, policy, self.trie, record=False) as session:

            def answer(batch: OmniBatch, own: Tensor) -> dict[str, Tensor]:
                given = {name: reading[own] for name, reading in readings.items()}
                with session.given(readings=given or None):
                    return self._plain(batch, own)

            return self._over(rows, answer)

    def _plain(self, batch: OmniBatch, _: Tensor) -> dict[str, Tensor]:
        return {"log_probs": label_log_probs(self.backbone, batch, self.trie).log_softmax(-1)}

    def _alone(self, batch: OmniBatch, _: Tensor) -> dict[str, Tensor]:
        return predictions_alone(self.backbone, batch, self.trie)

    @torch.no_grad()
    def _over(self, rows: Tensor, answer: Callable[[OmniBatch, Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
        parts: list[dict[str, Tensor]] = []
        for start in range(0, len(rows), self.batch_size):
            own = rows[start : start + self.batch_size]
            batch = collate([self.samples[row] for row in own.tolist()], self.pad_id).to(self.backbone.device)
            with self.autocast():
                found = answer(batch, own)
            parts.append({name: value.float().cpu() for name, value in found.items()})
            self.on_batch(min(start + self.batch_size, len(rows)), len(rows))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _edits(policy: Policy) -> Policy:
    """A policy without what shows in the bonus alone."""
    steps = [step.once_decided() for step in policy.steps if step.detection is not None or not step.idle(None)]
    return steps[0] if len(steps) == 1 else Policies(steps)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]


@torch.no_grad()
def model_fingerprint(model: nn.Module) -> str:
    """Tells models apart by evenly sampled values of every weight."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, len(flat) // SAMPLED)].cpu()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def settings_fingerprint(parts: Iterable[object]) -> str:
    """Of plain values."""
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True, default=str).encode()).hexdigest()
