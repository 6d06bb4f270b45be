import pytest


def test_report(fedstrategies, problem, tmp_path):
    out = tmp_path / "both"
    fedstrategies("compare", "ef21", "efbv", *problem, "--quiet", "--out", out)
    code, printed, err = fedstrategies("report", out)
    assert (code, err) == (0, "")
    assert printed == f"{out / 'report.html'}\n"
    page = (out / "report.html").read_text(encoding="utf-8")
    for shown in ("EF21", "EF-BV", "rand-k:k=2", "Gap f(x)", "4 clients"):
        assert shown in page, shown
    # A second time it replaces its own page; into another file where that is said.
    assert fedstrategies("report", out)[0] == 0
    assert fedstrategies("report", out, "-o", tmp_path / "x.html")[1] == f"{tmp_path / 'x.html'}\n"
    assert (tmp_path / "x.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["."], "holds no run"),
        ([".", "-o", "nowhere/x.html"], "nowhere is not a folder; create it"),
        ([".", "-o", "file.html"], "no report; move it away"),
        ([".", "-o", "folder.html"], "no report; move it away"),
        ([], "OUT..."),
    ],
)
def test_wrong_input_is_one_line(fedstrategies, tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, out, err = fedstrategies("report", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert word in err
    assert sorted(tmp_path.rglob("*")) == before
