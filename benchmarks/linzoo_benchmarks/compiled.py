"""What the shipped kernel configs become on a GPU, found out without one: Triton and its own ptxas compile ahead of time.

`python -m linzoo_benchmarks.compiled` prints shared memory, registers, spills and the instructions used, for every config
and target, writes them as CSV where `--out` says, and exits with 1 where a config breaks a rule of `broken_rules`. It must run in a process
without TRITON_INTERPRET, and with a `TRITON_CACHE_DIR` of its own, since only what is compiled afresh is reported on.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from linzoo_kernels import configs, launch
from linzoo_kernels.configs import KernelConfig

TARGETS = tuple(int(name.removeprefix("sm_")) for name in configs.TARGETS)
HEAD_DIMS = (32, 40, 64, 80, 128, 160)
CHANNELS = (320, 640, 1280)

SHARED_PER_PROGRAM = {80: 163 * 1024, 90: 227 * 1024}
SHARED_PER_SM = {80: 164 * 1024, 90: 228 * 1024}
SHARED_RESERVED = 1024
REGISTERS_PER_SM = 65_536
WARPS_PER_SM = 64
SPILL_LIMIT = 64
# Without tensor cores, products of 160 columns leave few registers for anything else: correct, and not meant to be fast.
SPILL_LIMIT_TWO_PIECES_FLOAT32 = 256


@dataclass(frozen=True)
class Case:
    """One kernel as it is compiled: for a head dim (or number of channels), a dtype and a target."""

    kernel: str
    width: int
    dtype: str
    target: int
    variant: str = ""  # which of `launch.variants`

    @property
    def name(self) -> str:
        """How the table calls the kernel."""
        return f"{self.kernel} {self.variant}".strip()


@dataclass(frozen=True)
class Report:
    """What became of a case. Bytes of shared memory a program, registers a thread, bytes of spill stores a thread."""

    kernel: str
    width: int
    dtype: str
    target: str
    block_rows: int
    num_warps: int
    num_stages: int
    precision: str
    shared: int
    registers: int
    spills: int
    wgmma: bool
    mma_sync: bool
    cp_async: bool
    programs_per_sm: int  # as many as fit at a time; the config's `programs_per_sm` is planned with
    planned_per_sm: int
    triton: str

    @property
    def title(self) -> str:
        """The case in words."""
        return f"{self.kernel}, {self.width}, {self.dtype}, {self.target}"


def cases(
    widths: Iterable[int] = HEAD_DIMS,
    channels: Iterable[int] = CHANNELS,
    dtypes: Sequence[str] = configs.DTYPES,
    targets: Sequence[int] = TARGETS,
) -> Iterator[Case]:
    """Every kernel for every width, dtype and target."""
    for target in targets:
        for dtype in dtypes:
            for width in widths:
                for kernel in configs.ATTENTION:
                    for variant in launch.variants(kernel, width, getattr(torch, dtype)):
                        yield Case(kernel, width, dtype, target, variant)
            for width in channels:
                yield Case("ln_leaky_relu", width, dtype, target)


def compile_case(case: Case) -> Report:
    """Compile one case. Raises what Triton raises where a kernel does not compile."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    config = configs.find(case.kernel, case.width, case.dtype, f"sm_{case.target}")
    function, options = _function(case, config)
    source = ASTSource(function, *_signature(function, case.dtype, options))
    launch_options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    log = io.StringIO()
    with triton.knobs.nvidia.scope(), contextlib.redirect_stdout(log):
        triton.knobs.nvidia.dump_ptxas_log = True
        binary = triton.compile(source, target=GPUTarget("cuda", case.target, 32), options=launch_options)
    registers, spills = _figures(log.getvalue(), case)
    ptx = binary.asm["ptx"]
    return Report(
        kernel=case.name,
        width=case.width,
        dtype=case.dtype,
        target=f"sm_{case.target}",
        block_rows=config.block_rows,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        precision=config.precision if case.dtype == "float32" and case.kernel in configs.ATTENTION else "",
        shared=binary.metadata.shared,
        registers=registers,
        spills=spills,
        wgmma="wgmma.mma_async" in ptx,
        mma_sync="mma.sync" in ptx,
        cp_async="cp.async" in ptx,
        programs_per_sm=_fitting(case.target, binary.metadata.shared, registers, config.num_warps),
        planned_per_sm=config.programs_per_sm,
        triton=triton.__version__,
    )


def compile_all(wanted: Iterable[Case], processes: int = 1) -> list[Report]:
    """Reports on the cases, in order."""
    wanted = list(wanted)
    if processes == 1:
        return [compile_case(case) for case in wanted]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(compile_case, wanted, chunksize=4))


def broken_rules(report: Report) -> list[str]:
    """What a shipped config must not do, and this one does."""
    broken = []
    limit = SHARED_PER_PROGRAM[int(report.target.removeprefix("sm_"))]
    if report.shared > limit:
        broken.append(f"takes {report.shared} bytes of shared memory, of {limit}")
    two_pieces_float32 = report.dtype == "float32" and report.width > launch.ONE_PIECE
    limit = SPILL_LIMIT_TWO_PIECES_FLOAT32 if two_pieces_float32 else SPILL_LIMIT
    if report.spills > limit:
        broken.append(f"spills {report.spills} bytes a thread, of {limit}")
    if report.kernel != "ln_leaky_relu":
        if report.dtype != "float32" and not (report.wgmma or report.mma_sync):
            broken.append("uses no tensor core")
        if report.num_stages > 1 and not report.cp_async:
            broken.append("does not load ahead (no cp.async)")
    return [f"{report.title}: {rule}" for rule in broken]


def write_csv(reports: Sequence[Report], path: Path) -> None:
    """The reports as CSV, in place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Report)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: int(v) if isinstance(v, bool) else v for k, v in asdict(r).items()} for r in reports
        )
    temporary.replace(path)


def table(reports: Sequence[Report]) -> str:
    """The reports for people: one line a case."""
    lines = [
        f"{'kernel':26} {'width':>5} {'dtype':9} {'target':6} {'rows/warps/stages':>17} {'shared KiB':>10} {'regs':>5} "
        f"{'spill':>5} {'fit':>4} {'planned':>7}  instructions"
    ]
    for r in reports:
        used = [name for name in ("wgmma", "mma_sync", "cp_async") if getattr(r, name)]
        cut = f"{r.block_rows}/{r.num_warps}/{r.num_stages}"
        lines.append(
            f"{r.kernel:26} {r.width:5} {r.dtype:9} {r.target:6} {cut:>17} {r.shared / 1024:10.1f} {r.registers:5} "
            f"{r.spills:5} {r.programs_per_sm:4} {r.planned_per_sm:7}  {' '.join([*used, r.precision])}".rstrip()
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile everything, print the table, write the CSV if asked to, and return 1 if a rule is broken."""
    parser = argparse.ArgumentParser(
        prog="python -m linzoo_benchmarks.compiled", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="a CSV file to write too")
    parser.add_argument("--width", type=int, nargs="*", default=HEAD_DIMS, help="head dims (all)")
    parser.add_argument(
        "--channels", type=int, nargs="*", default=CHANNELS, help="channels of ln_leaky_relu (all)"
    )
    parser.add_argument(
        "--dtype", nargs="*", default=configs.DTYPES, choices=configs.DTYPES, help="dtypes (all)"
    )
    parser.add_argument(
        "--target", type=int, nargs="*", default=TARGETS, choices=TARGETS, help="targets (all)"
    )
    parser.add_argument("--processes", type=int, default=1, help="how many compile at a time (1)")
    chosen = parser.parse_args(arguments)
    reports = compile_all(cases(chosen.width, chosen.channels, chosen.dtype, chosen.target), chosen.processes)
    print(table(reports))
    if chosen.out:
        write_csv(reports, chosen.out)
    broken = [rule for report in reports for rule in broken_rules(report)]
    print("\n".join(broken), file=sys.stderr, end="\n" if broken else "")
    return 1 if broken else 0


def _function(case: Case, config: KernelConfig) -> tuple[Any, dict[str, Any]]:
    """The kernel and its constants, as `launch` compiles it."""
    from linzoo_kernels import triton_attention, triton_norm

    dtype = getattr(torch, case.dtype)
    if case.kernel == "ln_leaky_relu":
        return triton_norm.ln_leaky_relu, launch.norm_constants(config, case.width, dtype)
    return getattr(triton_attention, case.kernel), launch.constants(config, case.width, dtype, case.variant)


def _signature(
    function: Any, dtype: str, options: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list[list[Any]]]]:
    """Types, constants and what is known of the arguments: pointers and strides of our tensors are multiples of 16."""
    element = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}[dtype]
    types, known = {}, {}
    for position, name in enumerate(function.arg_names):
        if name in options:
            types[name] = "constexpr"
        elif name in ("sums_ptr", "dsums_ptr", "r_ptr", "dz_ptr"):
            types[name] = "*fp32"
        elif name.endswith("_ptr"):
            types[name] = element
        elif name in ("eps", "slope"):
            types[name] = "fp32"
        else:
            types[name] = "i64" if name.startswith("stride") and name.endswith("b") else "i32"
        if name.endswith("_ptr") or name.startswith("stride"):
            known[(position,)] = [["tt.divisibility", 16]]
    constants = {name: value for name, value in options.items() if name in function.arg_names}
    return types, constants, known


def _figures(log: str, case: Case) -> tuple[int, int]:
    """Registers, and bytes of spill stores, out of what ptxas said."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores", log)
    if registers is None or spills is None:
        raise RuntimeError(
            f"ptxas said nothing of {case} (is it in Triton's cache? then set TRITON_CACHE_DIR): {log!r}"
        )
    return int(registers[1]), int(spills[1])


def _fitting(target: int, shared: int, registers: int, num_warps: int) -> int:
    """How many programs a multiprocessor runs at a time. Registers are given out to warps in lots of 8 a thread."""
    by_shared = SHARED_PER_SM[target] // (shared + SHARED_RESERVED)
    by_registers = REGISTERS_PER_SM // (-(-registers // 8) * 8 * 32 * num_warps)
    return min(by_shared, by_registers, WARPS_PER_SM // num_warps)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        sys.exit(main())
