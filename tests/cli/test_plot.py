import pytest


def test_plot(fedstrategies, problem, tmp_path):
    for name in ("efbv", "gd"):
        compressor = problem if name == "efbv" else problem[:-2]
        fedstrategies("run", name, *compressor, "--quiet", "--out", tmp_path / name)
    for x, y in (("rounds", "loss"), ("uplink_bytes", "grad_norm_sq"), ("seconds", "accuracy")):
        picture = tmp_path / f"{x}.png"
        code, _, err = fedstrategies(
            "plot", tmp_path / "efbv", tmp_path / "gd", "--x", x, "--y", y, "-o", picture
        )
        assert (code, err) == (0, "")
        assert picture.read_bytes().startswith(b"\x89PNG")
    code, _, err = fedstrategies("plot", tmp_path / "gd", "--y", "gap", "-o", tmp_path / "none.png")
    assert code == 2
    assert "gap" in err


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ('{"round": 0, "loss": 1.0}\n{"round": 1, "loss": null}\n', "line 2"),
        ('{"round": 0, "loss": 1.0}\nnonsense\n{"round": 2, "loss": 0.1}\n', "line 2"),
        ("", "measured loss"),
    ],
)
def test_plot_of_a_broken_history(fedstrategies, tmp_path, lines, word):
    (tmp_path / "history.jsonl").write_text(lines)
    picture = tmp_path / "picture.png"
    code, _, err = fedstrategies("plot", tmp_path, "-o", picture)
    assert code == 2
    assert err.count("\n") == 1
    assert word in err
    assert not picture.exists()


def test_plot_into_what_is_not_there(fedstrategies, tmp_path):
    (tmp_path / "history.jsonl").write_text('{"round": 0, "loss": 1.0}\n')
    (tmp_path / "folder.png").mkdir()
    for picture, word in (("nowhere/picture.png", "not a folder"), ("folder.png", "written")):
        code, _, err = fedstrategies("plot", tmp_path, "-o", tmp_path / picture)
        assert code == 2
        assert err.count("\n") == 1
        assert word in err
        assert "Errno" not in err
