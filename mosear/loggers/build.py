"""Loggers: built from the config, told the config, closed at the end."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

HIDDEN = "<hidden>"

_SECRET_NAME = re.compile(r"(^|_)(token|secret|passw(or)?d|credentials?|api_?key|access_?key)$", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """The loggers of ``cfg.logger`` (``{name: node}``), each told the config; the CSV log has it beside it."""
    from hydra.utils import instantiate
    from lightning.pytorch.loggers import CSVLogger

    loggers: list[Logger] = [instantiate(node, _convert_="all") for node in (cfg.get("logger") or {}).values() if node]
    for logger in loggers:
        if not isinstance(logger, CSVLogger):
            logger.log_hyperparams(public_config(cfg))
    return loggers


def public_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as others may see it: without secrets, and without the paths of this machine's users."""
    return without_private_parts(OmegaConf.to_container(cfg, resolve=True))


def without_private_parts(value: Any, name: str = "") -> Any:
    """``value`` with secrets hidden, paths below the working directory made relative, and the home directory as ``~``.

    Args:
        value: plain containers and scalars.
        name: the key ``value`` stands under; one such as ``api_key`` or ``hub_token`` names a secret.
    """
    if isinstance(value, Mapping):
        return {key: without_private_parts(child, str(key)) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [without_private_parts(child, name) for child in value]
    if value is not None and _SECRET_NAME.search(name):
        return HIDDEN
    if not isinstance(value, str):
        return value
    value = _USER_IN_URL.sub(HIDDEN, value)
    for place, shown in ((Path.cwd(), "."), (Path.home(), "~")):
        if place != Path(place.anchor):
            value = re.sub(rf"{re.escape(str(place))}(?=/|$)", shown, value)
    return value


@contextmanager
def closing_runs() -> Iterator[None]:
    """Ends the process's W&B run with the block, so that the next job of a ``--multirun`` starts one of its own.

    A run that was stopped, or that failed, carries the exit code; started again, the job goes on with it.
    """
    try:
        yield
    except BaseException as error:
        close_run(error.code if isinstance(error, SystemExit) else 1)
        raise
    close_run(0)


def close_run(status: object) -> None:
    """Ends the W&B run of this process if there is one; imports nothing."""
    wandb = sys.modules.get("wandb")
    if wandb is None or getattr(wandb, "run", None) is None:
        return
    code = status if isinstance(status, int) else int(status is not None)
    wandb.run.finish(exit_code=code)
