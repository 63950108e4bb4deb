"""MoSE as PEFT sees it: finds the projections, wraps them, adds a gate per decoder layer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from mosear.backbones.sequences import family_with_separate_modalities
from mosear.experts.config import MoSEConfig
from mosear.experts.gate import MoSEGate
from mosear.experts.hooks import ATTRIBUTE, MoSEHooks
from mosear.experts.layer import MERGE, MoSELayer, MoSELinear
from mosear.experts.targets import layer_index, resolve_targets
from mosear.experts.weights import check_weights

GATE = "mose_gate"


class MoSEModel(BaseTuner):
    """The tuner behind :class:`MoSEConfig`. Several adapters may be loaded; one at a time is active."""

    prefix: str = "mose_"
    tuner_layer_cls = MoSELayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  (PEFT's attribute; a config always has targets)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Resolve the targets ourselves (PEFT's ``all-linear`` means the towers as well), then let PEFT inject."""
        _refuse_loader_of_transformers()
        config: MoSEConfig = self.peft_config[adapter_name]
        self.family = family_with_separate_modalities(model, MoSEHooks.title, "Use adapter=lora for this backbone.")
        self._targets = resolve_targets(model, self.family, config)
        if getattr(model, ATTRIBUTE, None) is None:
            setattr(model, ATTRIBUTE, MoSEHooks(model, self.family))
        getattr(model, ATTRIBUTE).configs[adapter_name] = config
        for layer in _layers(model):  # of an earlier adapter with this name
            layer.forget(adapter_name)
        wanted = self._wanted = config.target_modules
        config.target_modules = list(self._targets)
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        finally:
            config.target_modules = wanted

    def _check_target_module_exists(self, peft_config: MoSEConfig, key: str) -> bool:  # type: ignore[override,unused-ignore]
        return key in self._targets

    def _create_and_replace(
        self,
        peft_config: MoSEConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if current_key not in self._targets:  # PEFT can take the names from a state dict
            raise ValueError(
                f"{current_key} is not among the projections that target_modules={self._wanted!r} selects in the "
                "decoder. The weights are of an adapter with other settings."
            )
        gate = self._gate(layer_index(current_key, self.family))
        if adapter_name not in gate.normalised:
            gate.update_layer(adapter_name, peft_config)
        if isinstance(target, MoSELinear):
            target.update_layer(adapter_name, peft_config)
            return
        assert isinstance(target, nn.Linear), "resolve_targets returns linear layers alone"
        self._replace_module(parent, target_name, MoSELinear(target, gate.slot, adapter_name, peft_config), target)

    def _gate(self, index: int) -> MoSEGate:
        """The gate of a decoder layer, made when its first projection is."""
        hooks: MoSEHooks = getattr(self.model, ATTRIBUTE)
        if index not in hooks.gates:
            layer = hooks.language_model.get_submodule(f"layers.{index}")
            config: Any = hooks.language_model.config
            gate = MoSEGate(index, config.hidden_size, next(layer.parameters()).device)
            setattr(layer, GATE, gate)
            hooks.add_gate(gate, layer)
        return hooks.gates[index]

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """PEFT asks for it on every way to load weights, and then loads what fits; here it is all or nothing."""
        tuner: Any = super()
        found: dict[str, Tensor] = tuner._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        check_weights(model, adapter_name, found, cls.prefix)
        return found

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Activate one adapter."""
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise ValueError(f"MoSE runs one adapter at a time, not {len(adapter_name)} ({', '.join(adapter_name)}).")
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT opens it around every forward and generate, with their arguments."""
        if (names := kwargs.get("adapter_names")) is not None:
            raise ValueError(
                f"adapter_names={names!r}: MoSE runs one adapter for the whole batch. Choose it with set_adapter, "
                "or use disable_adapter() for the backbone alone, and run a batch per adapter."
            )
        yield

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Never possible."""
        raise ValueError(
            "MoSE adapters cannot be combined by add_weighted_adapter: each has a gate of its own, and the sum of two "
            "gated updates is no gated update. Load them side by side and choose one with set_adapter."
        )

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter with its gates, which PEFT leaves in place: their name holds the method's prefix."""
        active = [name for name in self.active_adapters if name != adapter_name]
        super().delete_adapter(adapter_name)
        getattr(self.model, ATTRIBUTE).configs.pop(adapter_name, None)
        self.active_adapter = active or list(self.peft_config)[:1]
        for layer in _layers(self.model):
            layer.forget(adapter_name)
            layer.set_adapter(self.active_adapter)

    def _check_merge_allowed(self) -> None:
        raise ValueError(MERGE)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        if merge:
            raise ValueError(MERGE)
        hooks: MoSEHooks = getattr(self.model, ATTRIBUTE)
        hooks.detach()
        for index in hooks.gates:
            delattr(hooks.language_model.get_submodule(f"layers.{index}"), GATE)
        delattr(self.model, ATTRIBUTE)
        return super()._unload_and_optionally_merge(False, *args, **kwargs)


def _layers(model: nn.Module) -> list[Any]:
    """Projections and gates."""
    return [module for module in model.modules() if isinstance(module, MoSELayer)]


def _refuse_loader_of_transformers() -> None:
    """transformers renames tensors by a method's prefix, which a gate's own name holds: it would leave gates out.

    Raises:
        ValueError: inside ``load_adapter`` of a transformers model.
    """
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == (
            "transformers.integrations.peft",
            "load_adapter",
        ):
            raise ValueError(
                "load_adapter of transformers cannot load the gates of a MoSE adapter. Use "
                "peft.PeftModel.from_pretrained(model, directory), or load_adapter of the PeftModel it returns."
            )
