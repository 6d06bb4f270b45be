import pytest

from fedstrategies.experiment.plots import Curve, draw_comparison, draw_curves


def curve(label, *, rounds=50, bytes_a_round=10, decay=0.9, keys=("loss", "gap", "grad_norm_sq")):
    records = [
        {
            "round": t,
            "uplink_bytes": bytes_a_round * t,
            "downlink_bytes": t,
            "recovery_bytes": 0,
            "seconds": t / 10,
            "cost": t,
            **dict.fromkeys(keys, decay**t),
        }
        for t in range(rounds + 1)
    ]
    return Curve(label=label, records=records)


def test_points_keep_both_ends_and_the_budget():
    long = curve("a", rounds=9001, decay=1.0)
    abscissae, ordinates = long.points("rounds", "loss")
    assert len(abscissae) == len(ordinates) < 3000
    assert (abscissae[0], abscissae[-1]) == (0, 9001)
    assert curve("a").points("uplink_bytes", "gap", until=105)[0][-1] == 100
    assert curve("a").points("total_bytes", "gap")[0][1] == 11


def test_what_a_logarithm_cannot_show_is_left_out():
    records = [*curve("a", rounds=3).records, {"round": 4, "gap": 0.0}, {"round": 5, "gap": -1e-17}]
    assert Curve(label="a", records=records).points("rounds", "gap")[0] == [0, 1, 2, 3]


def test_pictures(tmp_path):
    curves = [curve(f"run {i}", bytes_a_round=10**i, decay=0.9 - 0.1 * i) for i in range(4)]
    draw_comparison(curves, tmp_path / "comparison.png", title="four runs")
    draw_curves(curves, tmp_path / "curves.png", x="seconds", y="loss")
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_without_gaps_the_gradient_norm_is_compared(tmp_path):
    curves = [curve("a"), curve("b", keys=("loss", "grad_norm_sq"))]
    draw_comparison(curves, tmp_path / "comparison.png")
    with pytest.raises(ValueError, match="accuracy"):
        draw_curves(curves, tmp_path / "none.png", y="accuracy")
    assert not (tmp_path / "none.png").exists()


def test_records_without_bytes_have_no_total():
    records = [{"round": 0, "loss": 1.0}, *curve("a", rounds=3).records[1:]]
    assert Curve(label="a", records=records).points("total_bytes", "loss")[0] == [11, 22, 33]
