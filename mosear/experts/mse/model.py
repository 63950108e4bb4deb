"""MSE-Adapter as PEFT sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from mosear.backbones.sequences import family_with_separate_modalities
from mosear.experts.mse.config import MSEConfig
from mosear.experts.mse.hooks import ATTRIBUTE, MSEHooks
from mosear.experts.mse.layer import MERGE, PseudoTokenLayer

LAYER = "pseudo_tokens"
"""What the language model calls the layer."""


class MSEModel(BaseTuner):
    """The tuner behind :class:`MSEConfig`. Several adapters may be loaded; one at a time is active."""

    prefix: str = "mse_"
    tuner_layer_cls = PseudoTokenLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  (PEFT's attribute; nothing is targeted)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add a network; no module of the backbone is replaced."""
        config: MSEConfig = self.peft_config[adapter_name]
        if getattr(model, ATTRIBUTE, None) is None:
            self._put_layer(model)
        getattr(model, ATTRIBUTE).layer.update_layer(adapter_name, config)
        config.target_modules = DUMMY_TARGET_MODULES
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        finally:
            del config.target_modules

    def _put_layer(self, model: nn.Module) -> None:
        family = family_with_separate_modalities(model, MSEHooks.title, "Use adapter=lora for this backbone.")
        language_model: Any = model.get_submodule(family.language_model_path)
        layer = PseudoTokenLayer(language_model.config.hidden_size, next(language_model.parameters()).device)
        setattr(language_model, LAYER, layer)
        setattr(model, ATTRIBUTE, MSEHooks(model, family, layer))

    def _check_target_module_exists(self, peft_config: MSEConfig, key: str) -> bool:  # type: ignore[override,unused-ignore]
        return False

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        return peft_config

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("no module is ever a target")

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Activate one adapter."""
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise ValueError(f"MSE runs one adapter at a time, not {len(adapter_name)} ({', '.join(adapter_name)}).")
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if (names := kwargs.get("adapter_names")) is not None:
            raise ValueError(f"adapter_names={names!r}: MSE runs one adapter for the whole batch.")
        yield

    def _check_merge_allowed(self) -> None:
        raise ValueError(MERGE)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        if merge:
            raise ValueError(MERGE)
        hooks: MSEHooks = getattr(self.model, ATTRIBUTE)
        hooks.detach()
        delattr(hooks.language_model, LAYER)
        delattr(self.model, ATTRIBUTE)
        return super()._unload_and_optionally_merge(False, *args, **kwargs)
