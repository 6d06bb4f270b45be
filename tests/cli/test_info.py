"""`fedstrategies info --model`."""

import pytest


def rows(out):
    """First word of every line -> the others."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}


def test_the_layer_groups_of_resnet18(fedstrategies):
    code, out, err = fedstrategies("info", "--model", "resnet18")
    assert (code, err) == (0, "")
    found = rows(out.split("\n\n")[0])
    blocks = [f"stage{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [name for name in found if "." in name] == blocks
    assert found["stem"] == ["3", "1,856", "7.42", "kB", "0.02%"]
    assert found["stage4.1"] == ["6", "4,720,640", "18.9", "MB", "42.25%"]
    assert found["output"] == ["2", "5,130", "20.5", "kB", "0.05%"]
    assert found["all"] == ["62", "11,173,962", "44.7", "MB", "100%"]
    assert "output, the classifier" in out


@pytest.mark.parametrize(
    ("given", "fractions"),
    [
        ([], {"all": "1.0000", "lowerb": ".2527", "opu2": ".5018", "opu3": ".7509"}),
        (["--classes", 100], {"lowerb": ".2765", "opu2": ".5177", "opu3": ".7588"}),
        (["--image", "1x28x28"], {"lowerb": ".2561", "opu2": ".5041", "opu3": ".7520"}),
    ],
)
def test_the_published_uplink_fractions_of_lenet(fedstrategies, given, fractions):
    code, out, _ = fedstrategies("info", "--model", "lenet", *given)
    assert code == 0
    found = rows(out.split("\n\n")[1])
    for name, fraction in fractions.items():
        assert found[name][0].removeprefix("0") == fraction
    assert {"opr2", "opu123", "opu23"} <= set(found)
    assert "100 clients" in out


def test_sizes_are_as_asked(fedstrategies):
    asked = ("--width", 8, "--classes", 7, "--image", "1x16x16", "--norm", "batch")
    _, out, _ = fedstrategies("info", "--model", "resnet18", *asked)
    found = rows(out.split("\n\n")[0])
    assert found["stem"][:2] == ["3", str(9 * 8 + 2 * 8)]
    assert found["output"][:2] == ["2", str(7 * 64 + 7)]
    _, out, _ = fedstrategies("info", "--model", "mlp", "--width", 5, "--image", "1x2x3")
    assert rows(out.split("\n\n")[0])["hidden"][:2] == ["2", str(5 * 6 + 5)]


@pytest.mark.parametrize("model", ["linear", "mlp", "cnn", "lstm"])
def test_every_network_has_layer_groups(fedstrategies, model):
    code, out, _ = fedstrategies("info", "--model", model)
    assert code == 0
    assert "classifier" in out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--model", "vgg"], "resnet18"),
        (["--model", "logreg"], "none of the networks"),
        (["--model", "resnet18", "--image", "3x4x4"], "too small"),
        (["--model", "lenet", "--image", "32x32"], "3x32x32"),
        (["--model", "lenet", "--image", "0x32x32"], "3x32x32"),
        (["--model", "lenet", "--classes", "0"], "classes"),
        (["--model", "lenet", "--classes", "ten"], "ten"),
        (["--model", "linear", "--width", "3"], "no hidden layer"),
        (["--model", "lenet", "--norm", "group"], "no normalisation"),
        (["--model", "resnet18", "--norm", "layer"], "group, batch"),
        (["--image", "3x32x32"], "--model"),
        (["--norm", "batch"], "--model"),
    ],
)
def test_wrong_input_is_one_line(fedstrategies, arguments, word):
    code, out, err = fedstrategies("info", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert word in err
