import pytest

from fedstrategies.data import DataError
from fedstrategies.data.plays import read_play


def play(body, *, head=""):
    return read_play(f"{head}<play>{body}</play>".encode(), name="a.xml")


def test_lines_are_gathered_by_role_in_order():
    found = play(
        "<sp><speaker long='Romeo Montague'>ROM.</speaker><l>One</l><l>two.</l></sp>"
        "<sp><speaker>JUL.</speaker><l>Ay</l></sp>"
        "<sp><speaker long='Romeo (as a pilgrim)'>ROM.</speaker><l>three</l></sp>"
    )
    assert dict(found.roles) == {"ROM.": ("One", "two.", "three"), "JUL.": ("Ay",)}
    assert list(found.roles) == ["ROM.", "JUL."]


def test_markup_inside_a_line_stays_and_stage_directions_go():
    found = play(
        "<stage><dir>Enter</dir></stage><sp>\n <speaker>\n  A.\n </speaker>\n"
        "<stage><dir>Aside</dir></stage>"
        "<l>My <foreign>bon</foreign> <name type='title'>lord</name>,"
        "<stage><dir>kneels</dir><l>no line</l></stage> rise</l>"
        "<l>\n   <recite>“Read\n   me.”</recite>\n </l><l> </l>"
        "<l>in <title>Titus</title> so</l></sp>"
    )
    assert dict(found.roles) == {"A.": ("My bon lord, rise", "“Read me.”", "in Titus so")}
    assert found.title == ""


def test_lines_without_a_speaker_have_no_role_and_two_speakers_are_one_role():
    found = play(
        "<l>a sonnet</l><sp><l>nobody</l></sp><sp><speaker> </speaker><l>nobody</l></sp>"
        "<sp><speaker>A.</speaker></sp><sp><l>nobody</l></sp>"
        "<sp><speaker>A.</speaker><speaker>B.</speaker><l>both</l></sp>"
    )
    assert dict(found.roles) == {"A. & B.": ("both",)}


@pytest.mark.parametrize(
    ("titles", "chosen"),
    [
        ("", ""),
        ("<title>First</title><title>Second</title>", "First"),
        ("<title type='main'>Long</title><title type='common'> So\nnamed </title>", "So named"),
        ("<title type='common'>One</title><title type='common'>Two</title>", "One"),
    ],
)
def test_the_common_title_is_taken(titles, chosen):
    assert play(f"<titleStmt>{titles}</titleStmt>").title == chosen


def test_the_stated_encoding_is_read():
    head = '<?xml version="1.0" encoding="ISO-8859-1"?>'
    document = f"{head}<play><sp><speaker>É.</speaker><l>ça</l></sp></play>".encode("latin-1")
    assert dict(read_play(document, name="a").roles) == {"É.": ("ça",)}


BOMB = '<!DOCTYPE play [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE play [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("", "not well-formed XML"),
        ("hello", "not well-formed XML"),
        ("<play><sp></play>", "not well-formed XML .*mismatched tag"),
        ("<play>", "not well-formed XML"),
        ('<?xml version="1.0" encoding="klingon"?><play/>', "not well-formed XML"),
        (f"{BOMB}<play><sp><speaker>A.</speaker><l>&b;</l></sp></play>", "defines XML entities"),
        (f"{OUTSIDE}<play><sp><speaker>A.</speaker><l>&a;</l></sp></play>", "defines XML entit"),
    ],
)
def test_whatever_is_not_a_play_is_one_clear_line(document, complaint):
    with pytest.raises(DataError, match=f"^a.xml: {complaint}") as caught:
        read_play(document.encode(), name="a.xml")
    assert "\n" not in str(caught.value)


def test_depth_does_not_exhaust_the_stack():
    deep = 100_000
    assert play("<x>" * deep + "</x>" * deep).roles == {}
