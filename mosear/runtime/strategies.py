"""DDP that survives restarts; DeepSpeed ZeRO for frozen backbones with small adapters, on GPUs and, with gloo, on CPUs.

Three things differ from Lightning's own DeepSpeed strategy:

* The engine never casts. ``backbone.dtype`` decides about frozen weights, adapters stay float32, and
  ``trainer.precision=bf16-mixed`` means autocast, as with ``trainer=ddp``. So all trainers compute the same.
* Evaluation needs no engine unless weights are partitioned (ZeRO-3). Then the engine's hooks are removed by the engine
  itself; Lightning would remove all forward hooks, those of the gate and of steering too.
* A checkpoint holds trainable weights alone, and names them: what is missing after a load is frozen, or it is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from mosear.backbones.partitioned import move_rest
from mosear.files import written_atomically
from mosear.torchrun import store_of_this_start

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer

TRAINED = "trained.json"
"""The names and shapes of the weights in a checkpoint's directory, to compare before anything is loaded."""
BUCKET = 20_000_000
"""Elements that are reduced or gathered in one go. Adapters are small; DeepSpeed's default buffers take gigabytes."""


class DdpStrategy(DDPStrategy):
    """Lightning's, in a job that torchrun may start again.

    Args:
        timeout_minutes: how long a process waits for the others before it gives up.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        super().__init__(timeout=checked_timeout(timeout_minutes))

    def setup_distributed(self) -> None:
        """As Lightning's, through a store that no earlier start of the job has used."""
        self.set_world_ranks()
        connect(self, None if self.root_device.type == "cpu" else self.root_device)
        super().setup_distributed()


def checked_timeout(minutes: float) -> timedelta:
    """A patience that makes sense."""
    if not minutes > 0:
        raise ValueError(f"timeout_minutes={minutes} must be positive.")
    return timedelta(minutes=minutes)


def connect(strategy: Any, device: torch.device | None = None) -> None:
    """Under torchrun, connect a strategy's processes; otherwise leave it to whoever would."""
    timeout = strategy._timeout
    if torch.distributed.is_initialized() or (store := store_of_this_start(timeout)) is None:
        return
    torch.distributed.init_process_group(
        strategy._get_process_group_backend(),
        store=store,
        rank=strategy.global_rank,
        world_size=strategy.world_size,
        timeout=timeout,
        device_id=device,
    )


class ZeroPrecision(DeepSpeedPrecision):
    """Autocast or nothing; no weight and no input is ever cast."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Leaves weights as they are."""
        return module

    def convert_input(self, data: Any) -> Any:
        """Leaves inputs as they are."""
        return data

    def tensor_init_context(self) -> AbstractContextManager[Any]:
        """New tensors have torch's default type."""
        return nullcontext()

    def backward(self, tensor: Any, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """The engine's backward; Lightning alone says where a window of accumulated batches ends, and divides by it."""
        engine, loop = model.trainer.model, model.trainer.fit_loop
        engine.set_gradient_accumulation_boundary(not loop._should_accumulate())
        engine.backward(tensor, *args, scale_wrt_gas=False, **kwargs)

    def forward_context(self) -> AbstractContextManager[Any]:
        """What steps run in where no engine is (an engine has its own autocast, from the same setting)."""
        if self.precision != "bf16-mixed":
            return nullcontext()
        kind = "cuda" if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu" else "cpu"
        return torch.autocast(kind, dtype=torch.bfloat16)


class ZeroStrategy(DeepSpeedStrategy):
    """ZeRO 1, 2 or 3.

    Args:
        stage: 1 spreads optimiser states, 2 gradients too, 3 also the (frozen) weights.
        accelerator_name: ``cpu``, ``gpu`` or ``auto``, the trainer's own; on CPUs, gloo connects the processes.
        offload: keep the optimiser's states and, in stage 3, the weights in the host's memory.
        timeout_minutes: how long a process waits for the others before it gives up.
    """

    strategy_name = "mosear_zero"
    config: Any

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        accelerator_name: str = "auto",
        offload: bool = False,
        timeout_minutes: float = 30.0,
    ) -> None:
        self.on_cpu = accelerator_name == "cpu" or (accelerator_name == "auto" and not torch.cuda.is_available())
        if self.on_cpu:
            os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported, which the next line does
        super().__init__(
            config=zero_config(stage, on_cpu=self.on_cpu, offload=offload),
            exclude_frozen_parameters=True,
            timeout=checked_timeout(timeout_minutes),
            process_group_backend="gloo" if self.on_cpu else "nccl",
        )
        self.stage = stage
        self._loading: Any = None
        self._engine: Any = None

    # -- where it runs ----------------------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Connects the processes; unlike Lightning's, on CPUs too."""
        assert self.accelerator is not None
        self.accelerator.setup_device(self.root_device)
        self.setup_distributed()

    def setup_distributed(self) -> None:
        """As Lightning's; several CPU "devices" have no index of their own, which its check wants."""
        if not self.on_cpu:
            super().setup_distributed()
            return
        import deepspeed

        # gloo is enough; DeepSpeed would compile a shared-memory operation on first use.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _init_deepspeed_distributed(self) -> None:
        """DeepSpeed takes the connection that it finds."""
        connect(self)
        super()._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        """This process's device."""
        return torch.device("cpu") if self.on_cpu else super().root_device

    @property
    def precision_plugin(self) -> Any:
        """Ours, whatever Lightning chose for DeepSpeed strategies."""
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Any) -> None:
        ours = isinstance(plugin, DeepSpeedPrecision)
        self._precision_plugin = ZeroPrecision(plugin.precision) if ours else plugin

    # -- loading ----------------------------------------------------------------------------------------------------

    def prepare_loading(self, dtype: str) -> None:
        """Stage 3: from now on, ``from_pretrained`` gives each process its part of the weights.

        Args:
            dtype: of the backbone (``bf16``, ``fp16`` or ``fp32``); DeepSpeed creates weights in the type it is told.
        """
        if self.stage != 3:
            return
        from transformers.integrations import HfDeepSpeedConfig

        self.setup_environment()
        zero = self.config["zero_optimization"]
        settings: dict[str, Any] = {"zero_optimization": zero, "train_micro_batch_size_per_gpu": 1}
        settings |= {name: {"enabled": dtype == name} for name in ("bf16", "fp16")}
        self._loading = HfDeepSpeedConfig(settings)  # alive as long as the strategy: transformers refers to it weakly

    # -- engines ----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer) -> None:
        """An engine for training; for evaluation one only if weights are partitioned."""
        self._close_engine()
        assert self.accelerator is not None and self.lightning_module is not None
        module: Any = self.lightning_module
        self.model = module
        if self.stage == 3:
            move_rest(module.backbone.model, module.backbone.family, self.root_device)
            super().setup(trainer)
            register_loose_parameters(module)
        elif trainer.state.fn == TrainerFn.FITTING:
            super().setup(trainer)
        else:
            self.accelerator.setup(trainer)
            module.to(self.root_device)
        self._engine = None if self.model is module else self.model

    def _setup_model_and_optimizer(self, model: Any, optimizer: Any, lr_scheduler: Any = None) -> tuple[Any, Any]:
        """As Lightning's, without the index of the device, which a CPU has not."""
        import deepspeed

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        engine, wrapped, _, _ = deepspeed.initialize(
            config=self.config,
            model=model,
            model_parameters=trained,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, wrapped

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        """As Lightning's, but no hook of others is removed."""
        import deepspeed

        settings: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1}
        settings |= {name: self.config[name] for name in ("zero_optimization", "torch_autocast") if name in self.config}
        self.model, *_ = deepspeed.initialize(
            config=settings, model=model, model_parameters=[], dist_init_required=False
        )

    def _close_engine(self) -> None:
        """Removes an earlier engine's own hooks; the weights stay partitioned."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.destroy()

    def teardown(self) -> None:
        """Leaves the module without hooks of an engine."""
        self._close_engine()
        if self.stage != 3:
            super().teardown()
            return
        # Not moved to the CPU: placeholders of partitioned weights would then name another device than the weights.
        assert self.cluster_environment is not None and self.accelerator is not None
        for part in (self.cluster_environment, self.precision_plugin, self.accelerator, self.checkpoint_io):
            part.teardown()

    def _format_config(self) -> None:
        """Batch size, accumulation and clipping from the trainer; autocast instead of a casting engine."""
        self._format_batch_size_and_grad_accum_config()
        if self.precision_plugin.precision == "bf16-mixed":
            # No module's weights are reduced in bfloat16: gradients of float32 adapters stay float32.
            self.config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}

    @property
    def handles_gradient_accumulation(self) -> bool:
        """No: Lightning ends an epoch's last window early, where DeepSpeed would wait for the next epoch."""
        return False

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """Nothing to block: the engine has been told that no window ends here."""
        yield

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """A directory with the trainable weights and optimiser states of each process."""
        super().save_checkpoint(checkpoint, filepath, storage_options)
        if self.is_global_zero:
            with written_atomically(Path(filepath) / TRAINED) as temporary:
                temporary.write_text(json.dumps(trained_shapes(self._trained_module())), encoding="utf-8")

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load, unless anything but frozen weights is missing.

        Raises:
            ValueError: if the checkpoint belongs to another adapter, or is none of this strategy.
        """
        check_trained_shapes(Path(checkpoint_path), trained_shapes(self._trained_module()))
        return super().load_checkpoint(checkpoint_path, weights_only)

    def _trained_module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module


def trained_shapes(module: nn.Module) -> dict[str, list[int]]:
    """Of the weights that train, whole: ZeRO-3 leaves an empty tensor where a part of one was."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {name: list(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in trained.items()}


def check_trained_shapes(checkpoint: Path, expected: dict[str, list[int]]) -> None:
    """Only frozen weights may be missing from a checkpoint, nothing may be foreign, and all must fit.

    Raises:
        ValueError: otherwise.
    """
    if not (checkpoint / TRAINED).is_file():
        raise ValueError(f"{checkpoint} is no checkpoint of a ZeRO trainer: it has no {TRAINED}.")
    found = json.loads((checkpoint / TRAINED).read_text(encoding="utf-8"))
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    misfits = [
        f"{name} is {found[name]}, not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if missing or unknown or misfits:
        raise ValueError(
            f"{checkpoint} does not fit this adapter: {len(missing)} trainable tensors are missing "
            f"({', '.join(missing[:3])}), {len(unknown)} are unknown ({', '.join(unknown[:3])}), {len(misfits)} have "
            f"another shape ({'; '.join(misfits[:3])}). Resume with the adapter settings of the original run."
        )


def zero_config(stage: int, *, on_cpu: bool, offload: bool) -> dict[str, Any]:
    """DeepSpeed's settings; batch size, accumulation and clipping are added from the trainer."""
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": not on_cpu,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": not on_cpu}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": not on_cpu}
    return {
        "zero_optimization": zero,
        # torch's AdamW in every trainer: DeepSpeed's own is compiled on first use and computes other numbers.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def register_loose_parameters(module: nn.Module) -> None:
    """Tell ZeRO-3 which module uses the entries of a ``ParameterDict``, which itself never runs.

    Weights are gathered for the module that runs, and a dictionary of parameters is a module on paper only: those of
    MoSE's projections and gates belong to the projection and the gate.
    """
    import deepspeed

    for owner in module.modules():
        for child in owner.children():
            if isinstance(child, nn.ParameterDict):
                for parameter in child.values():
                    deepspeed.zero.register_external_parameter(owner, parameter)
