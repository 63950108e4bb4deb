"""A finished run, reopened: its config, and from it backbone, adapter, question and clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from omegaconf import DictConfig, OmegaConf
from torch import nn

from mosear.backbones import load_backbone
from mosear.config.foreign import TRUST, without_code
from mosear.config.targets import resolve_target
from mosear.data.budget import MediaBudget
from mosear.data.decode_process import Decoding
from mosear.data.prompt import Prompt
from mosear.evaluation.runs import ADAPTER, CONFIG, RunFiles, is_trained_adapter
from mosear.runtime.adapters import load_adapter

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.datamodule import ClipDataModule


class Run:
    """What a run directory holds about its model.

    Objects are built here, by name. A config that names code of its own is refused (:mod:`mosear.config.foreign`), and
    code that a checkpoint brings along runs only if the caller trusts it, whatever the run says.

    Args:
        cfg: of the run.
        adapter: directory of the trained adapter; ``None`` = the bare backbone.
    """

    def __init__(self, cfg: DictConfig, adapter: Path | None = None) -> None:
        self.cfg, self.adapter = cfg, adapter

    @classmethod
    def open(cls, path: str | Path, overrides: Sequence[str] = (), *, trust_remote_code: bool = False) -> Self:
        """Reopen a run.

        Args:
            path: the run directory, or its ``adapter/``.
            overrides: of the config, ``KEY=VALUE``.
            trust_remote_code: run code that the backbone's checkpoint brings along; what the run says counts for
                nothing.

        Raises:
            ValueError: if it is no run directory, has no trained adapter, or its config names code.
        """
        path = Path(path)
        adapter = path / ADAPTER if is_trained_adapter(path / ADAPTER) else path
        if not is_trained_adapter(adapter):
            raise ValueError(
                f"{path} is not a trained adapter: it has no adapter_config.json. Give RUN, or RUN/adapter."
            )
        # What `mosear push` uploads has its config among the adapter's files.
        config = adapter / CONFIG if (adapter / CONFIG).is_file() else adapter.parent / CONFIG
        if not config.is_file():
            raise ValueError(
                f"{config} is missing: it says which backbone, prompt and budgets {adapter} was trained with."
            )
        saved = RunFiles(config.parent).config
        without_code(saved, config)
        trust = [f"{TRUST}=true"] if trust_remote_code else []
        cfg = OmegaConf.merge(saved, OmegaConf.from_dotlist([*overrides, *trust]))
        assert isinstance(cfg, DictConfig)
        return cls(cfg, adapter)

    @property
    def name(self) -> str:
        """Of the backbone."""
        return str(self.cfg.backbone.name)

    @property
    def prompt(self) -> Prompt:
        """The question and the labels."""
        return Prompt(**_settings(self.cfg.data.prompt))

    @property
    def budget(self) -> MediaBudget:
        """What is decoded of a clip at most."""
        return MediaBudget(**_settings(self.cfg.data.budget))

    def backbone(self, source: str | None = None, *, device: str | None = None) -> OmniBackbone:
        """Load the backbone, without the adapter.

        Args:
            source: where it lies, if not under the run's own name.
            device: where to load it; ``None`` = as the run did.
        """
        options = _settings(self.cfg.backbone)
        options.update({"name": source or self.name} | ({} if device is None else {"device": device}))
        loaded = load_backbone(**options)
        if source is not None and Path(source).expanduser().is_dir():
            loaded.name = self.name  # a copy of it lies there; the adapter says whether that is so
        return loaded

    def network(self, backbone: OmniBackbone) -> nn.Module:
        """The PEFT model around the backbone, or the bare backbone's model."""
        if self.adapter is None:
            return backbone.model
        network = load_adapter(backbone, self.adapter)
        backbone.name = self.name
        return network

    def data(self, backbone: OmniBackbone, **changes: Any) -> ClipDataModule:
        """Its clips and their question.

        Args:
            backbone: shapes the samples.
            changes: arguments of :class:`ClipDataModule` that win over the run's.
        """
        from mosear.data.datamodule import ClipDataModule

        options = _settings(self.cfg.data)
        options |= {"prompt": self.prompt, "budget": self.budget, "prepare": None, "val_subset": None, **changes}
        if options.get("decode") is not None:  # runs of earlier releases say nothing about it
            options["decode"] = Decoding(**_settings(self.cfg.data.decode))
        return ClipDataModule(backbone=backbone, **options)

    def prepare_clips(self) -> None:
        """Render the synthetic corpus if the run's clips are its."""
        node = self.cfg.data.get("prepare")
        if node is not None:
            resolve_target(node._target_)(**_settings(node))


def _settings(node: Any) -> dict[str, Any]:
    """A config node's plain values, without Hydra's keys."""
    found: Any = OmegaConf.to_container(node, resolve=True)
    return {name: value for name, value in found.items() if not name.startswith("_")}
