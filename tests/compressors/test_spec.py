"""Compressors as the command line writes them."""

import pytest

from fedstrategies.compressors import (
    COMPRESSOR_EXAMPLES,
    QSGD,
    Cast,
    CompK,
    Composition,
    Identity,
    MixK,
    Natural,
    RandK,
    ScaledRandK,
    TopK,
    parse_compressor,
)

SPECS = {
    "identity": Identity(),
    "top-k:k=5": TopK(k=5),
    "top-k:fraction=0.01": TopK(fraction=0.01),
    "rand-k:k=5": RandK(k=5),
    "scaled-rand-k:k=5": ScaledRandK(k=5),
    "mix:k=1,k_prime=5": MixK(k=1, k_prime=5),
    "comp:k=1,k_prime=56": CompK(k=1, k_prime=56),
    "comp:k=1,fraction_prime=0.5": CompK(k=1, fraction_prime=0.5),
    "natural": Natural(),
    "qsgd:levels=8": QSGD(levels=8),
    "cast:float16": Cast(dtype="float16"),
    "cast:bfloat16": Cast(dtype="bfloat16"),
    "top-k:k=5+natural": Composition(stages=(TopK(k=5), Natural())),
    "top-k:k=50+rand-k:k=5+cast:float16": Composition(
        stages=(TopK(k=50), RandK(k=5), Cast(dtype="float16"))
    ),
}


@pytest.mark.parametrize(("text", "operator"), SPECS.items(), ids=list(SPECS))
def test_round_trip(text, operator):
    assert parse_compressor(text) == operator
    assert operator.spec == text
    assert hash(parse_compressor(operator.spec)) == hash(operator)


def test_examples_parse_and_white_space_does_not_matter():
    for name, example in COMPRESSOR_EXAMPLES.items():
        assert parse_compressor(example).spec.startswith(name)
    assert parse_compressor("top-k:k=5 + natural") == parse_compressor("top-k:k=5+natural")
    assert parse_compressor("cast:dtype=float16") == Cast(dtype="float16")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("topk:k=5", ["unknown compressor 'topk'", "top-k", "scaled-rand-k", "qsgd"]),
        ("", ["unknown compressor ''", "identity"]),
        ("top-k:k=5+", ["unknown compressor ''"]),
        ("top-k:n=5", ["no option 'n'", "k, fraction"]),
        ("natural:k=5", ["no option 'k'", "none"]),
        ("top-k:5", ["no option '5'", "top-k:k=5"]),
        ("top-k:k=five", ["k must be a whole number", "'five'"]),
        ("top-k:k=0.5", ["k must be a whole number", "'0.5'"]),
        ("top-k:fraction=x", ["fraction must be a number", "'x'"]),
        ("top-k:k=0", ["at least 1", "got 0"]),
        ("top-k:fraction=1.5", ["(0, 1]", "1.5"]),
        ("top-k:fraction=nan", ["(0, 1]"]),
        ("top-k", ["exactly one of k= and fraction="]),
        ("top-k:k=5,fraction=0.1", ["exactly one"]),
        ("top-k:k=5,k=6", ["k is given twice"]),
        ("mix:k=1", ["exactly one of k_prime= and fraction_prime="]),
        ("mix:k=0,k_prime=0", ["keeps nothing"]),
        ("mix:k=-1,k_prime=2", ["at least 0"]),
        ("comp:k=5,k_prime=2", ["k = 5 exceeds k_prime = 2"]),
        ("qsgd", ["lacks an option", "levels"]),
        ("qsgd:levels=0", ["levels must be a whole number from 1"]),
        ("cast:int8", ["float16, bfloat16", "'int8'"]),
        ("cast", ["lacks an option", "dtype"]),
    ],
)
def test_wrong_specs_are_one_clear_line(text, words):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_compressor(text)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_constructors_are_keyword_only_and_typed():
    with pytest.raises(TypeError):
        TopK(5)
    with pytest.raises(ValueError, match="whole number"):
        TopK(k=True)
    with pytest.raises(ValueError, match="whole number"):
        QSGD(levels=2.0)
