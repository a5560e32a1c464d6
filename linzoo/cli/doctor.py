"""``linzoo doctor``: one block of facts to paste in a bug report."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import click

from linzoo._version import __version__
from linzoo.cli.common import Command, State, echo_json, pass_state

PACKAGES = (
    "torch", "diffusers", "transformers", "huggingface-hub", "safetensors", "accelerate", "peft",
    "triton", "numpy", "ml-dtypes", "pluggy", "click", "pydantic",
)  # fmt: skip
DTYPES = ("float32", "float16", "bfloat16", "float8_e4m3fn")


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_state
def doctor(state: State, as_json: bool) -> None:
    """Print a block of facts to paste in a bug report.

    Versions, devices, dtypes, Triton, the kernels' backend, plugins, and whether the Hub is used.

    \b
    Example:
      linzoo doctor            paste the block into a bug report
      linzoo doctor --json
    """
    facts = {
        "linzoo": __version__,
        "python": f"{platform.python_version()} ({sys.executable})"
        if state.verbose
        else platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "triton": _triton(),
        "kernels": _kernels(),
        "hub": _hub(),
        "plugins": [
            {"name": status.name, "version": status.version, "state": status.state, "problem": status.problem}
            for status in state.registry.plugins
        ],
    }
    if as_json:
        echo_json(facts)
        return
    click.echo("```")
    for line in _lines(facts):
        click.echo(line)
    click.echo("```")


def _version(package: str) -> str | None:
    import importlib.metadata  # slow to import, and every command loads this file for its help

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    """Each device with the dtypes that a small matrix product really ran in."""
    try:
        import torch
    except ImportError as error:
        return [{"name": "none", "problem": f"torch cannot be imported: {error}"}]
    found = [("cpu", platform.processor() or platform.machine())]
    found += [
        (f"cuda:{index}", torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append(("mps", "Apple GPU"))
    return [
        {"name": name, "what": what, "dtypes": [dtype for dtype in DTYPES if _multiplies(name, dtype)]}
        for name, what in found
    ]


def _multiplies(device: str, dtype: str) -> bool:
    import torch

    try:
        ones = torch.ones(2, 2, device=device, dtype=getattr(torch, dtype))
        return bool((ones @ ones).float().sum() == 8)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return False


def _triton() -> str:
    version = _version("triton")
    if version is None:
        return "not installed"
    try:
        import torch
    except ImportError:
        return version
    if os.environ.get("TRITON_INTERPRET") == "1":
        return f"{version} (interpreter)"
    return version if torch.cuda.is_available() else f"{version} (no GPU to run on)"


def _kernels() -> str:
    """What mounted layers compute with, and who chose it."""
    try:
        import torch
        from linzoo_kernels import dispatch
    except ImportError as error:
        return f"cannot be imported: {error}"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        asked = dispatch.requested("auto")
        chosen = dispatch.choose("auto", device, lambda: None)
    except dispatch.BackendError as error:
        return str(error)
    return f"{chosen} on {device.type} ({'automatic' if asked == 'auto' else dispatch.VARIABLE})"


def _hub() -> str:
    offline = any(os.environ.get(name, "").lower() in {"1", "true", "yes", "on"}
                  for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))  # fmt: skip
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return f"offline ({endpoint} is never asked)" if offline else f"online ({endpoint})"


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"{key}: {facts[key]}" for key in ("linzoo", "python", "platform")]
    lines += [f"{name}: {version or 'not installed'}" for name, version in facts["packages"].items()]
    for device in facts["devices"]:
        detail = device.get("problem") or f"{device['what']}; {', '.join(device['dtypes'])}"
        lines.append(f"device {device['name']}: {detail}")
    lines += [f"triton backend: {facts['triton']}", f"kernels: {facts['kernels']}", f"hub: {facts['hub']}"]
    for plugin in facts["plugins"]:
        problem = f" ({plugin['problem']})" if plugin["problem"] else ""
        lines.append(f"plugin {plugin['name']} {plugin['version']}: {plugin['state']}{problem}")
    return lines
