import pytest

from fedstrategies.data import PARTITION_EXAMPLES, PARTITIONS, DataError, parse_partition


def test_every_example_is_valid_and_names_its_partition():
    assert tuple(PARTITION_EXAMPLES) == PARTITIONS
    for name, example in PARTITION_EXAMPLES.items():
        assert parse_partition(example).name == name


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("iid", {}),
        ("dirichlet:alpha=0.5", {"alpha": 0.5}),
        (" dirichlet : alpha = 3 , min_size = 2 ", {"alpha": 3.0, "min_size": 2}),
        ("classes:per_client=2,assignment=random", {"per_client": 2, "assignment": "random"}),
    ],
)
def test_options_are_parsed(text, options):
    parsed = parse_partition(text)
    assert dict(parsed.options) == options
    assert [type(value) for value in parsed.options.values()] == list(map(type, options.values()))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("random", r"unknown partition 'random'; known: contiguous, iid, dirichlet:alpha=0\.5"),
        ("", "unknown partition ''"),
        ("iid:", "no option ''; options of iid: none"),
        ("natural:by=role", "no option 'by'; options of natural: none"),
        ("dirichlet", "alpha is missing; options of dirichlet: alpha, min_size"),
        ("dirichlet:min_size=3", "alpha is missing"),
        ("dirichlet:0.5", "no option '0.5'"),
        ("dirichlet:alpha=0", "alpha must be a positive number, got '0'"),
        ("dirichlet:alpha=-1", "alpha must be a positive number"),
        ("dirichlet:alpha=nan", "alpha must be a positive number"),
        ("dirichlet:alpha=inf", "alpha must be a positive number"),
        ("dirichlet:alpha", "alpha must be a positive number, got ''"),
        ("dirichlet:alpha=1,alpha=2", "alpha is given twice"),
        ("dirichlet:alpha=1,min_size=0", "min_size must be a whole number from 1 on, got '0'"),
        ("classes", "per_client is missing"),
        ("classes:per_client=1.5", "per_client must be a whole number from 1 on, got '1.5'"),
        ("classes:per_client=1,assignment=fair", "assignment must be one of first-deterministic"),
    ],
)
def test_whatever_is_not_valid_is_one_clear_line(text, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        parse_partition(text)
    assert "\n" not in str(caught.value)
