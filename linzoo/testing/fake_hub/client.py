"""Pointing the real Hub client at the fake Hub: in this process, or in one that is started."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock


def environment(url: str, home: Path, token: str | None, *, xet: bool) -> dict[str, str]:
    """What a process must find in its environment to use the Hub at ``url``, with its caches under ``home``."""
    variables = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    return variables if token is None else {**variables, "HF_TOKEN": token}


@contextlib.contextmanager
def patched_client(url: str, home: Path, token: str | None, *, xet: bool) -> Iterator[None]:
    """Have the client of this process use the Hub at ``url``.

    The client has read the environment when it was imported, so its constants are changed, those that its modules
    have copied too, and everything that remembers the Hub of before: sessions, file systems and their listings.
    """
    from huggingface_hub import HfFileSystem, close_session, constants, file_download, hf_api
    from huggingface_hub.utils import _cache_manager, _http

    cache = str(home / "hub")
    impatient = _without_sleep()
    changes: list[tuple[Any, dict[str, Any]]] = [
        (constants, {**_constants(url, home), "HF_HUB_DISABLE_XET": not xet}),
        (_cache_manager, {"HF_HUB_CACHE": cache}),
        (_http, {"time": impatient}),
        (file_download, {"time": impatient}),
        (importlib.import_module("huggingface_hub.utils.tqdm"), {"HF_HUB_DISABLE_PROGRESS_BARS": True}),
        (hf_api.api, {"endpoint": url, "_whoami_cache": {}}),
    ]
    variables = environment(url, home, token, xet=xet)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, variables))
        if token is None:
            for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
                os.environ.pop(name, None)
        for target, values in changes:
            stack.enter_context(mock.patch.multiple(target, **values))
        for forget in (close_session, HfFileSystem.clear_instance_cache):
            forget()
            stack.callback(forget)
        # The client's own way to upload is deprecated in the library below it.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Use 'content=<", DeprecationWarning)
        yield


def _constants(url: str, home: Path) -> dict[str, Any]:
    cache, assets, token = (str(home / name) for name in ("hub", "assets", "token"))
    return {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": cache,
        "HUGGINGFACE_HUB_CACHE": cache,
        "HF_ASSETS_CACHE": assets,
        "HUGGINGFACE_ASSETS_CACHE": assets,
        "HF_TOKEN_PATH": token,
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_XET_CACHE": str(home / "xet"),
    }


def _without_sleep() -> ModuleType:
    """The module ``time``, in which nobody sleeps: the client waits seconds before it asks again."""
    impatient = ModuleType("time")
    vars(impatient).update(vars(time), sleep=lambda seconds: None)
    return impatient
