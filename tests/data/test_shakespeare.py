import bz2
import gzip
import io
import lzma
import os
import tarfile

import pytest
import torch

from fedstrategies.data import (
    SHAKESPEARE_ALPHABET,
    DataError,
    binary_labels,
    class_indices,
    class_values,
    load_dataset,
    partition,
    read_shakespeare,
    split_test,
)
from fedstrategies.data import archive as archive_module

HAMLET = """<?xml version="1.0" encoding="UTF-8"?><play><title type="common">Hamlet</title>
<sp><speaker>BAR.</speaker><l>Who\u2019s there?</l></sp>
<sp><speaker>FRAN.</speaker><l>Nay</l></sp>
<sp><speaker>BAR.</speaker><l>Long live the King!</l></sp>
<sp><speaker>GHOST.</speaker><l>Mark me. I am thy father</l></sp></play>"""
MACBETH = """<play><sp><speaker>BAR.</speaker><l>So fair and foul a day</l></sp></play>"""
BARNARDO = "Who's there?\nLong live the King!"
PLAYS = {"plays/b_hamlet.xml": HAMLET, "plays/c_macbeth.xml": MACBETH}


def tar(members, *, mode="w"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


@pytest.fixture
def plays(tmp_path):
    path = tmp_path / "plays.tar.xz"
    path.write_bytes(tar({"README": "no play", **PLAYS}, mode="w:xz"))
    return path


def text(rows):
    return ["".join(SHAKESPEARE_ALPHABET[index] for index in row) for row in rows.tolist()]


def test_rows_are_windows_of_a_role_and_labels_the_next_characters(plays):
    dataset = load_dataset(plays, sequence_length=10)
    assert dataset.name == "plays"
    assert dataset.group_names == ("Hamlet/BAR.", "Hamlet/GHOST.", "c_macbeth/BAR.")
    assert dataset.groups.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert dataset.features.shape == dataset.labels.shape == (7, 10)
    assert dataset.features.dtype == dataset.labels.dtype == dataset.groups.dtype == torch.int64
    assert text(dataset.features[:3]) == [BARNARDO[0:10], BARNARDO[10:20], BARNARDO[20:30]]
    assert text(dataset.labels[:3]) == [BARNARDO[1:11], BARNARDO[11:21], BARNARDO[21:31]]
    assert text(dataset.features[3:5]) == ["Mark me. I", " am thy fa"]
    assert text(dataset.labels[3:5]) == ["ark me. I ", "am thy fat"]
    assert dataset.test is None


@pytest.mark.parametrize(("characters", "windows"), [(20, None), (21, 2), (30, 2), (31, 3)])
def test_a_window_needs_the_character_after_it_and_a_role_two_windows(
    tmp_path, characters, windows
):
    path = tmp_path / "a.tar"
    line = "x" * characters
    path.write_bytes(tar({"a.xml": f"<play><sp><speaker>A</speaker><l>{line}</l></sp></play>"}))
    if windows is None:
        with pytest.raises(DataError, match="no speaking role with more than 20 characters"):
            load_dataset(path, sequence_length=10)
    else:
        assert len(load_dataset(path, sequence_length=10)) == windows


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_every_packing_and_the_folder_itself_give_the_same(tmp_path, plays, pack):
    expected = load_dataset(plays, sequence_length=5)
    backwards = dict(reversed(PLAYS.items()))
    packed = tmp_path / "packed"
    packed.write_bytes(pack(tar(backwards)))
    (tmp_path / "open" / "plays").mkdir(parents=True)
    for name, content in PLAYS.items():
        (tmp_path / "open" / name).write_text(content, encoding="utf-8")
    (tmp_path / "open" / "plays" / "._b_hamlet.xml").write_bytes(b"\x00resource fork")
    for path in (packed, tmp_path / "open"):
        dataset = load_dataset(path, sequence_length=5)
        assert dataset.group_names == expected.group_names
        assert torch.equal(dataset.features, expected.features)
        assert torch.equal(dataset.labels, expected.labels)
        assert torch.equal(dataset.groups, expected.groups)


def test_roles_are_natural_clients_that_can_be_split_for_testing(plays):
    dataset = load_dataset(plays, sequence_length=5)
    shards = partition("natural", dataset, 3)
    assert [dataset.group_names[int(dataset.groups[shard[0]])] for shard in shards] == [
        "Hamlet/BAR.",
        "Hamlet/GHOST.",
        "c_macbeth/BAR.",
    ]
    train, test = split_test(shards, test_fraction=0.25)
    assert [len(rows) for rows in test] == [1, 1, 1]
    assert sum(map(len, train)) + 3 == len(dataset)
    for spec, complaint in (
        ("dirichlet:alpha=1", "one class a row"),
        ("classes:per_client=1", "one class a row"),
        ("features", "indices"),
    ):
        with pytest.raises(DataError, match=f"^plays has .*{complaint}"):
            partition(spec, dataset, 2)
    assert len(partition("iid", dataset, 2)[0]) == len(dataset) // 2


def test_labels_of_every_position_pass_through_the_class_tools(plays):
    labels = load_dataset(plays, sequence_length=5).labels
    values = class_values(labels)
    indices = class_indices(labels, values)
    assert indices.shape == labels.shape
    assert torch.equal(values[indices], labels)
    with pytest.raises(DataError, match="label value"):
        binary_labels(labels)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (tar({"README": "plays"}), "no speaking role"),
        (tar({"a.xml": "<poem><l>Shall I compare thee</l></poem>"}), "no speaking role"),
        (tar({"a.xml": "<play>"}), "a.xml: not well-formed XML"),
        (tar(PLAYS, mode="w:xz")[:-40], "cannot be read"),
        (tar(PLAYS)[:700], "cannot be read"),
        (tar(PLAYS)[:1024], "damaged or cut short"),
        (tar(PLAYS)[:1200], "damaged or cut short"),
        (tar(PLAYS).replace(b"c_macbeth.xml", b"d_macbeth.xml"), "damaged or cut short"),
        (tar({f"{n}.txt": "" for n in range(10_001)}), "more than 10000 members"),
        (tar({"a.xml": b" " * (16 * 2**20 + 1)}, mode="w:gz"), "a.xml has 16 MiB; the limit is 16"),
    ],
)
def test_whatever_is_not_an_archive_of_plays_is_one_clear_line(tmp_path, content, complaint):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        load_dataset(path, sequence_length=5)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_small_file_cannot_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "_ARCHIVE_LIMIT", 2**20)
    path = tmp_path / "bomb.tar.xz"
    path.write_bytes(tar({"zeros": bytes(2**22), **PLAYS}, mode="w:xz"))
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        load_dataset(path)


def test_links_lead_nowhere(tmp_path):
    secret = tmp_path / "secret.xml"
    secret.write_text(MACBETH, encoding="utf-8")
    packed = io.BytesIO(tar(PLAYS))
    with tarfile.open(fileobj=packed, mode="a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}.xml")
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
    path = tmp_path / "linked.tar"
    path.write_bytes(packed.getvalue())
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "hamlet.xml").write_text(HAMLET, encoding="utf-8")
    os.symlink(secret, folder / "link.xml")
    assert len(load_dataset(path, sequence_length=5).group_names) == 3
    assert len(load_dataset(folder, sequence_length=5).group_names) == 2


def test_arguments_are_checked(tmp_path, plays):
    with pytest.raises(DataError, match="sequence_length must be at least 1, got 0"):
        load_dataset(plays, sequence_length=0)
    with pytest.raises(DataError, match="nowhere: no such file"):
        read_shakespeare(tmp_path / "nowhere")
    assert read_shakespeare(plays, sequence_length=5, name="mine").name == "mine"
