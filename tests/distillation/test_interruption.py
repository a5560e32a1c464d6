"""Signals: the step under way is finished and saved; a second one stops at once."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from toy import ToyRun

from linzoo.distillation.errors import DistillationError
from linzoo.distillation.interruption import explain_signals, noting_signals
from linzoo.errors import PluginError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(tmp_path: Path, number: signal.Signals) -> None:
    def interrupt(step: object) -> None:
        if step.step == 4:  # type: ignore[attr-defined]
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(DistillationError, match=rf"stopped by {number.name} after step 4.*--resume latest"):
        ToyRun(tmp_path, callbacks=(interrupt,)).run()
    assert signal.getsignal(number) is before
    resumed = ToyRun(tmp_path)
    assert resumed.saved is not None
    assert resumed.saved.record["step"] == 4
    ended, straight = resumed.run(), ToyRun(tmp_path / "straight").run()
    assert all(torch.equal(ended[name], value) for name, value in straight.items())


def test_a_second_signal_stops_at_once() -> None:
    said: list[str] = []
    with noting_signals(said.append) as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.came == "SIGTERM"
        with pytest.raises(KeyboardInterrupt, match="SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)
        assert interruption.came == "SIGTERM"
    assert said == ["SIGTERM: finishing this step and saving; once more stops at once, without saving"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_outside_the_steps_a_signal_stops_at_once_with_a_message(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with (
        pytest.raises(DistillationError, match=rf"stopped at once by {number.name}; .*--resume latest"),
        explain_signals(),
    ):
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_beside_the_main_thread_nothing_is_noted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with noting_signals(print) as interruption, explain_signals():
            seen.append((interruption.came, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_a_callback_that_fails_ends_the_run_with_its_state_saved(tmp_path: Path) -> None:
    def fail(step: object) -> None:
        if step.step == 2:  # type: ignore[attr-defined]
            raise PluginError("plugin mine 1.0 failed")

    with pytest.raises(PluginError, match="plugin mine"):
        ToyRun(tmp_path, callbacks=(fail,)).run()
    assert ToyRun(tmp_path).states.steps() == [2]
