import os
from io import FileIO

import pytest

from fedstrategies import durable
from fedstrategies.durable import make_directory, write_all, write_durably


class Short(FileIO):
    def write(self, data):
        return super().write(bytes(data)[:7])


def test_all_is_written_where_the_system_takes_little_at_a_time(tmp_path):
    with Short(tmp_path / "file", "w") as file:
        write_all(file, bytes(range(100)))
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_durably(path, b"before")

    class Broken(FileIO):
        def write(self, data):
            super().write(bytes(data)[:2])
            raise OSError("broken")

    with monkeypatch.context() as context:
        context.setattr(durable, "FileIO", Broken)
        with pytest.raises(OSError, match="broken"):
            write_durably(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    write_durably(path, b"after")
    assert path.read_bytes() == b"after"


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (steps.append(os.fstat(handle).st_ino), fsync(handle))
    )
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("renamed"), replace(*names)))
    write_durably(tmp_path / "file", b"content")
    assert steps == [(tmp_path / "file").stat().st_ino, "renamed", tmp_path.stat().st_ino]


def test_names_of_new_folders_are_brought_to_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "sync", synced.append)
    make_directory(tmp_path / "a" / "b")
    assert set(synced) == {tmp_path, tmp_path / "a"}
    synced.clear()
    make_directory(tmp_path / "a" / "b")  # by another process a moment ago, perhaps
    assert synced == [tmp_path / "a"]
