"""An adapter of a run on the Hugging Face Hub: weights, settings, model card, and the config without private parts."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mosear.backbones.identity import FILE as IDENTITY
from mosear.evaluation.runs import ADAPTER, CONFIG, RunFiles
from mosear.loggers.build import public_config, without_private_parts
from mosear.methods.model_card import CARD, shown_backbone
from mosear.runtime.model_card import card_of_run

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEPT = ("name", "seed", "backbone", "system", "adapter", "method", "tuning", "answering", "data", "benchmark")
"""Parts of the config that say how the adapter was made and what it answers; the others are about a machine."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REMEDIES = {
    401: "Log in with `hf auth login`, or set HF_TOKEN to a token that may write.",
    403: "The token may not write there. Use one with write access, or a repository of your own.",
    404: "There is no such user or organisation, or the token may not see it.",
    409: "The repository was changed meanwhile. Push again.",
}


class PushError(ValueError):
    """An adapter that cannot be pushed, or a hub that does not take it."""


def files_to_push(run: Path, licence: str | None = None) -> dict[str, bytes]:
    """Every file that is uploaded, by its name in the repository; nothing else leaves the machine.

    Args:
        run: the run's directory, or its ``adapter/``.
        licence: an identifier of the hub for the card.

    Raises:
        PushError: if it is no run with a trained adapter.
    """
    if run.name == ADAPTER and not (run / ADAPTER).is_dir():
        run = run.parent
    adapter = run / ADAPTER
    if lacking := [path for path in (run / CONFIG, adapter / SETTINGS, adapter / WEIGHTS) if not path.is_file()]:
        raise PushError(f"{run} has no {lacking[0].relative_to(run)}. Give the directory of a run that mosear trained.")
    found = {name: json.loads((adapter / name).read_text(encoding="utf-8")) for name in (SETTINGS, IDENTITY)
             if (adapter / name).is_file()}  # fmt: skip
    for content in found.values():
        for key in ("name", "base_model_name_or_path"):
            if isinstance(content.get(key), str):
                content[key] = shown_backbone(content[key])
    files = {name: json.dumps(without_places(content), indent=2).encode() for name, content in found.items()}
    config = public_config(RunFiles(run).config)
    config = {key: without_places(value) for key, value in config.items() if key in KEPT}
    config["backbone"]["name"] = shown_backbone(RunFiles(run).config.backbone.name)
    files[CONFIG] = OmegaConf.to_yaml(DictConfig(config)).encode()
    files[CARD] = card_of_run(run, licence).encode()
    files[WEIGHTS] = (adapter / WEIGHTS).read_bytes()
    return dict(sorted(files.items()))


def without_places(value: Any) -> Any:
    """``value`` without secrets, and with the last part alone of every path that leads through this machine."""
    if isinstance(value, Mapping):
        return {key: without_places(child) for key, child in without_private_parts(value).items()}
    if isinstance(value, list | tuple):
        return [without_places(child) for child in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~", "./", "../")) else value


def push(files: Mapping[str, bytes], repository: str, *, public: bool = False) -> str:
    """Upload files in one commit; returns the address of the repository.

    Args:
        files: by name.
        repository: ``user/name``; it is made if it is not there.
        public: whether a new repository is open to everyone.

    Raises:
        PushError: if the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

    check_name(repository)
    api = HfApi()
    try:
        address = api.create_repo(repository, private=not public, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            for name, content in files.items():
                (Path(directory) / name).write_bytes(content)
            api.upload_folder(folder_path=directory, repo_id=repository, commit_message="Adapter from mosear")
    except LocalTokenNotFoundError as error:
        raise PushError(f"The hub asks who you are, and there is no token. {REMEDIES[401]}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = REMEDIES.get(status, "Try again later.")
        raise PushError(f"{api.endpoint} refused {repository!r} with status {status}. {remedy}") from error
    except (HTTPError, OSError) as error:
        raise PushError(f"{api.endpoint} cannot be reached ({type(error).__name__}). Is there a network?") from error
    return str(address)


def check_name(repository: str) -> None:
    """Raises :class:`PushError` for a name that no repository can have."""
    if not _REPOSITORY.fullmatch(repository):
        raise PushError(f"--to {repository!r} is not a repository. Write user/name or organisation/name.")
