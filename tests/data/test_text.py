import pytest
import torch

from fedstrategies.data import SHAKESPEARE_ALPHABET, encode_text, fold_text


def test_the_alphabet_is_ascii_the_line_end_and_one_unknown():
    assert len(SHAKESPEARE_ALPHABET) == len(set(SHAKESPEARE_ALPHABET)) == 97
    assert SHAKESPEARE_ALPHABET[0] == "\n"
    assert SHAKESPEARE_ALPHABET[1:96] == "".join(chr(code) for code in range(32, 127))


def test_encoding_is_a_look_up_in_the_alphabet():
    indices = encode_text(SHAKESPEARE_ALPHABET[:96])
    assert indices.dtype == torch.int64
    assert indices.tolist() == list(range(96))
    assert encode_text("\t\x7f\x00é→😀\ud800").tolist() == [96] * 7
    assert encode_text("").shape == (0,)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Who's there?", "Who's there?"),
        ("\u2018Tis\u2019 “so”", "'Tis' \"so\""),
        ("me\u2060—no\u00ad\u2013yes…", "me--no-yes..."),
        ("Élève à la façon, Señor Æneas", "Eleve a la facon, Senor AEneas"),
        ("π → ∞", "π → ∞"),
    ],
)
def test_text_is_folded_to_ascii_as_far_as_it_goes(text, folded):
    assert fold_text(text) == folded
