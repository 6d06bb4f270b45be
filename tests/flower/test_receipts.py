"""The two sides' rules, one decision at a time."""

from __future__ import annotations

import pytest
import torch

from fedstrategies.flower.control import (
    ORIGIN,
    MemoryCommand,
    Request,
    Response,
    Status,
    Tag,
)
from fedstrategies.flower.errors import ProtocolError
from fedstrategies.flower.ledger import Ledger, Rejected
from fedstrategies.flower.receipts import Decision, Receipts
from fedstrategies.wire import encode_vector


def request(sequence: int, ack: Tag = ORIGIN, **more: object) -> Request:
    return Request(
        session=7,
        sequence=sequence,
        round=sequence,
        key=-5,
        ack=ack,
        constants=(0.25, 1.0),
        spec="top-k:k=5",
        **more,  # type: ignore[arg-type]
    )


def after(sequence: int, ack: Tag = ORIGIN, blob: bytes = b"blob") -> Receipts:
    return Receipts().after_upload(request(sequence, ack), blob, 0.5)


def test_control_fields_round_trip() -> None:
    asked = request(3, Tag(7, 2, 99), memory=MemoryCommand.TAKE, settlement=True)
    assert Request.from_bytes(asked.to_bytes()) == asked
    assert len(asked.to_bytes()) == Request.size(asked.constants, asked.spec)
    answer = Response(status=Status.LOST, session=7, sequence=3, round=3, base=12)
    assert Response.from_bytes(answer.to_bytes()) == answer
    assert len(answer.to_bytes()) == Response.SIZE
    for receipts in (Receipts(), after(3), after(3).after_lost(request(4))):
        assert Receipts.from_bytes(receipts.to_bytes()) == receipts


@pytest.mark.parametrize("cut", [0, 1, 30, -1])
def test_truncated_or_foreign_control_fields_are_named(cut: int) -> None:
    with pytest.raises(ProtocolError, match=r"request: \d+ bytes"):
        Request.from_bytes(request(1).to_bytes()[:cut])
    with pytest.raises(ProtocolError, match="control bytes"):
        Response.from_bytes(b"\x01" * cut if cut > 0 else b"")
    with pytest.raises(ProtocolError, match="version 9"):
        Request.from_bytes(b"\x09" + request(1).to_bytes()[1:])


def test_the_client_rule_in_its_order() -> None:
    mine = after(5)
    assert mine.pending is not None
    tag = mine.pending.tag
    assert tag == Tag(7, 5, int.from_bytes(b"blob", "little"))
    assert mine.decide(request(5)) is Decision.RESEND
    assert mine.decide(request(4, tag)) is Decision.STALE
    assert mine.decide(request(6, Tag(1, 1, 1), memory=MemoryCommand.ZERO)) is Decision.REPLACE
    assert mine.decide(request(6, tag)) is Decision.COMMIT
    assert mine.decide(request(6, ORIGIN)) is Decision.ROLL_BACK
    assert mine.decide(request(6, Tag(7, 5, 1))) is Decision.LOST
    # A recomputed upload with other bytes is another upload.
    assert mine.decide(request(6, Tag.of((7, 5), b"BLOB"))) is Decision.LOST


def test_tags_of_frames_differ_where_the_frames_do() -> None:
    draw = torch.Generator().manual_seed(0)
    frames = [encode_vector(torch.randn(5, generator=draw)) for _ in range(50)]
    assert len({Tag.of((7, 5), frame) for frame in frames}) == 50
    # An upload computed twice for one attempt, with other bytes: the wrong one is not committed.
    first, second = after(5, blob=frames[0]), after(5, blob=frames[1])
    assert first.pending is not None
    assert second.decide(request(6, first.pending.tag)) is Decision.LOST


def test_without_its_bytes_an_upload_is_computed_again_when_its_request_comes_again() -> None:
    mine = Receipts.from_bytes(after(5).without_blob().to_bytes())
    assert mine.decide(request(5, memory=MemoryCommand.ZERO)) is Decision.REPLACE
    assert mine.decide(request(4, memory=MemoryCommand.ZERO)) is Decision.STALE
    assert mine.decide(request(6, memory=MemoryCommand.ZERO)) is Decision.REPLACE
    assert Receipts().without_blob() == Receipts()


def test_a_lost_answer_makes_its_request_stale_but_nothing_else() -> None:
    lost = after(5).after_lost(request(6, Tag(9, 9, 9)))
    assert lost.decide(request(6, Tag(9, 9, 9))) is Decision.STALE
    assert lost.pending == after(5).pending


def test_an_older_session_is_stale() -> None:
    mine = after(5)
    old = Request(session=6, sequence=99, round=1, key=0, ack=ORIGIN)
    assert mine.decide(old) is Decision.STALE


def answer(ledger: Ledger, partition: int, **changes: int) -> Response:
    fields = {
        "session": ledger.session,
        "sequence": ledger.sequence,
        "base": ledger.accepted(partition).digest(),
    }
    return Response(status=Status.UPLOAD, round=1, **{**fields, **changes})


def test_the_server_rule() -> None:
    ledger = Ledger(3, session=7)
    ledger.open_attempt([0, 1])
    tag = ledger.judge(0, answer(ledger, 0), b"x")
    assert tag == Tag.of((7, 1), b"x")
    ledger.close(0)
    with pytest.raises(Rejected, match="duplicate"):
        ledger.judge(0, answer(ledger, 0), b"x")
    with pytest.raises(Rejected, match="late"):
        ledger.judge(1, answer(ledger, 1, sequence=0), b"x")
    with pytest.raises(Rejected, match="another run"):
        ledger.judge(1, answer(ledger, 1, session=6), b"x")
    with pytest.raises(Rejected, match="another memory"):
        ledger.judge(1, answer(ledger, 1, base=1), b"x")
    ledger.commit({0: tag})
    assert ledger.accepted(0) == tag
    assert ledger.accepted(1) == ORIGIN
    assert ledger.has_accepted().tolist() == [True, False, False]


def test_recovery_is_ordered_until_an_upload_is_used_and_ever_more_rarely() -> None:
    ledger = Ledger(1, session=7)
    ledger.require_recovery(0, MemoryCommand.TAKE)
    orders = []
    for _ in range(20):
        ledger.open_attempt([0])
        orders.append(ledger.recovery(0) is MemoryCommand.TAKE)
        ledger.require_recovery(0, MemoryCommand.TAKE)
    assert [i for i, ordered in enumerate(orders) if ordered] == [0, 1, 3, 7, 15]
    ledger.commit({0: Tag(7, 20, 1)})
    ledger.open_attempt([0])
    assert ledger.recovery(0) is MemoryCommand.KEEP


def test_a_reset_opens_a_new_epoch_for_everyone() -> None:
    ledger = Ledger(2, session=7)
    ledger.open_attempt([0, 1])
    ledger.reset()
    ledger.open_attempt([0, 1])
    assert ledger.accepted(0) == ledger.accepted(1) == Tag(7, 2, 0)
    for _ in range(5):  # costs nothing: repeated until an upload is used
        assert ledger.recovery(1) is MemoryCommand.ZERO
        ledger.open_attempt([0, 1])
    # No upload was used, so gradient shifts still begin with a dense one.
    assert not ledger.has_accepted().any()


def test_batched_commits_leave_tags_that_messages_can_go_on_from() -> None:
    ledger = Ledger(4, session=7)
    ledger.open_attempt([])
    ledger.commit_batch(torch.tensor([1, 3]))
    assert ledger.accepted(3) == Tag(7, 1, 0)
    assert ledger.accepted(0) == ORIGIN


@pytest.mark.parametrize(("patient", "sent"), [(True, 4), (False, 10)])
def test_a_memory_is_sent_ever_more_rarely_unless_rounds_need_the_client(patient, sent) -> None:
    ledger = Ledger(2, session=5, patient=patient)
    ledger.require_recovery(1, MemoryCommand.TAKE)
    orders = []
    for _ in range(10):
        ledger.open_attempt([0, 1])
        orders.append(ledger.recovery(1))
    assert orders.count(MemoryCommand.TAKE) == sent
