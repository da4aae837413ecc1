"""How networks run on this machine."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ohlora import runtime


@pytest.mark.parametrize(
    ("amx", "avx512", "maker", "faster"),
    [
        (True, True, "GenuineIntel", True),
        (False, True, "GenuineIntel", False),
        (False, True, "AuthenticAMD", True),
        (False, False, "AuthenticAMD", False),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster(
    amx: bool, avx512: bool, maker: str, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(runtime.Path, "read_text", lambda path: f"vendor_id\t: {maker}\n")
    assert runtime.fast_bf16(torch.device("cpu")) is faster


def test_a_system_that_does_not_name_its_processor_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: runtime.Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(runtime.Path, "read_text", missing)
    assert not runtime.fast_bf16(torch.device("cpu"))


def test_work_in_processes_comes_back_in_order(set_threads: Callable[[int], None]) -> None:
    set_threads(2)
    assert list(runtime.in_processes(_square, range(5), "cpu")) == [(0, 1), (1, 1), (4, 1), (9, 1), (16, 1)]


def _square(number: int) -> tuple[int, int]:
    return number**2, torch.get_num_threads()


WORK = """
import os, time, torch
from ohlora.runtime import in_processes

def work(item):
    open(os.path.join(sys.argv[1], f"{os.getpid()}"), "w").close()
    time.sleep(60)

torch.set_num_threads(2)
list(in_processes(work, range(8), "cpu"))
"""


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK.replace("sys.argv[1]", repr(str(tmp_path / "pids"))))
    (tmp_path / "pids").mkdir()
    parent = subprocess.Popen([sys.executable, tmp_path / "work.py"])
    until(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not any(Path("/proc", path.name).exists() for path in (tmp_path / "pids").iterdir()))


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
