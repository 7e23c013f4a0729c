"""Freed memory is kept while it is asked for, given back behind it, and left alone where the user chose otherwise."""

import os
import resource
from pathlib import Path

import pytest
import torch

from selfprompt.allocator import CHOICES, _glibc, keep_freed_memory

BLOCK = 64 << 20  # bytes, above any size that glibc keeps by itself
PAGES = BLOCK // 4096

glibc_only = pytest.mark.skipif(
    _glibc() is None or "LD_PRELOAD" in os.environ or any(name in os.environ for name in CHOICES),
    reason="another allocator than glibc's as it comes",
)


def faults_of_a_block() -> int:
    """Page faults of taking, filling and freeing a block."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(BLOCK, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@glibc_only
def test_a_freed_block_is_used_again_and_given_back_at_the_end() -> None:
    with keep_freed_memory():
        faults_of_a_block()
        assert faults_of_a_block() < PAGES / 8
        held = resident()
    assert resident() < held - BLOCK / 2


@glibc_only
def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    before = resident()
    with keep_freed_memory():
        faults_of_a_block()
        assert resident() < before + BLOCK / 2


def test_an_error_passes_through_and_the_rest_goes_on() -> None:
    with pytest.raises(KeyError, match="lost"), keep_freed_memory():
        raise KeyError("lost")
    assert keep_freed_memory()(sum)([1, 2]) == 3
