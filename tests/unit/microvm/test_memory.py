"""A machine's memory, and the copy of a template's that clones map together and none can write to."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pysandbox.linux import start_time
from pysandbox_microvm.memory import copy_sparse, is_offered, new_memory, offer, offered, sealed_copy

SIZE = 4 << 20


@pytest.fixture
def memory():
    descriptor = new_memory(SIZE)
    os.pwrite(descriptor, b"kernel", 1 << 20)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def copy(memory):
    descriptor = sealed_copy(memory)
    yield descriptor
    os.close(descriptor)


def test_memory_takes_no_room_before_it_is_written_to():
    descriptor = new_memory(1 << 40)
    assert os.fstat(descriptor).st_blocks == 0
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_a_copy_has_what_is_there_and_no_more(memory):
    other = new_memory(SIZE)
    copy_sparse(memory, other)
    assert os.pread(other, 6, 1 << 20) == b"kernel"
    assert os.fstat(other).st_blocks == os.fstat(memory).st_blocks
    os.close(other)


def test_nobody_can_write_to_a_sealed_copy_even_when_it_is_opened_anew(copy):
    again = os.open(f"/proc/self/fd/{copy}", os.O_RDWR | os.O_CLOEXEC)
    with pytest.raises(PermissionError):
        os.pwrite(again, b"evil", 1 << 20)
    with pytest.raises(PermissionError):
        os.ftruncate(again, 0)
    with pytest.raises(PermissionError):
        mmap.mmap(again, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    os.close(again)


def test_a_sealed_copy_can_be_mapped_privately_and_written_to_there(copy):
    again = os.open(f"/proc/self/fd/{copy}", os.O_RDWR | os.O_CLOEXEC)
    with mmap.mmap(again, SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        assert mapped[1 << 20 : (1 << 20) + 6] == b"kernel"
        mapped[1 << 20] = 0
    assert os.pread(copy, 6, 1 << 20) == b"kernel"
    os.close(again)


def test_what_is_offered_is_the_very_same_memory(tmp_path, copy):
    note = str(tmp_path / "shared")
    assert not is_offered(note)
    offer(note, copy)
    found = offered(note, SIZE)
    assert os.fstat(found).st_ino == os.fstat(copy).st_ino
    assert is_offered(note)
    assert os.stat(note).st_mode & 0o077 == 0
    os.close(found)


def test_memory_of_another_size_is_not_taken(tmp_path, copy):
    offer(str(tmp_path / "shared"), copy)
    assert offered(str(tmp_path / "shared"), SIZE * 2) is None


def test_memory_that_can_still_be_written_to_is_not_taken(tmp_path, memory):
    offer(str(tmp_path / "shared"), memory)
    assert offered(str(tmp_path / "shared"), SIZE) is None


def test_a_file_that_is_no_memory_is_not_taken(tmp_path):
    file = os.open("/dev/null", os.O_RDWR)
    offer(str(tmp_path / "shared"), file)
    assert offered(str(tmp_path / "shared"), SIZE) is None
    os.close(file)


def test_of_a_process_that_has_ended_nothing_is_taken(tmp_path):
    program = (
        "import os, sys, time; sys.path[:0] = sys.argv[1].split(':')\n"
        "from pysandbox_microvm.memory import *\n"
        f"offer({str(tmp_path / 'shared')!r}, sealed_copy(new_memory({SIZE}))); print(flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, ":".join(sys.path)], stdout=subprocess.PIPE)
    holder.stdout.readline()
    found = offered(str(tmp_path / "shared"), SIZE)
    assert found is not None
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert offered(str(tmp_path / "shared"), SIZE) is None
    assert os.fstat(found).st_size == SIZE  # who has it keeps it
    os.close(found)


def test_a_later_process_with_the_same_pid_is_not_believed(tmp_path, copy):
    # What a container's process with that pid could hold: memory of the right size and seals, but its own content.
    note = tmp_path / "shared"
    note.write_text(f"{os.getpid()} {start_time(os.getpid()) - 1} {copy}")
    assert offered(str(note), SIZE) is None
    note.write_text(f"{os.getpid()} {start_time(os.getpid())} {copy}")
    found = offered(str(note), SIZE)
    assert found is not None
    os.close(found)


@pytest.mark.parametrize("text", ["", "1", "1 2", "a b c", "-1 -1 -1", "1 2 3 4", "9" * 200, "0 0 0", "1 2 ../../x"])
def test_a_note_that_is_garbage_offers_nothing(tmp_path, text):
    Path(tmp_path, "shared").write_text(text)
    assert offered(str(tmp_path / "shared"), SIZE) is None
