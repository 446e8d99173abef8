"""What `FakeProvider` says of actions; a job ends after it was looked at `looks` times."""

from distqatd.api import control_schema as c
from distqatd.base.errors import DistqatError, NotFound

PEER, OTHER = "a" * 52, "b" * 52


def job(**changes: object) -> c.Job:
    values: dict[str, object] = {
        "number": 1,
        "kind": "drain",
        "what": "drain on birch-bbbb",
        "peer_id": OTHER,
        "nickname": "birch-bbbb",
        "state": "done",
        "progress": "",
        "message": "front.0.0.0: left after 2.0 s",
        "code": "",
        "exit_code": 0,
        "deadline_s": 120.0,
        "started_unix_s": 1.0,
        "seconds": 2.0,
    }
    return c.Job.model_validate({**values, **changes})


MOVES = c.Moves(
    moves=(
        c.Move(
            uid="front.0.1.0",
            peer_id=OTHER,
            nickname="birch-bbbb",
            from_stage="front",
            to_stage="back",
            reason="back has no expert",
        ),
    ),
    reason="1 move",
)

DOCTOR = c.Doctor(
    checks=(
        c.Check(name="python", verdict="ok", detail="3.12 on Linux"),
        c.Check(name="disk", verdict="warning", detail="1 GB free", fix="make room"),
    )
)


class FakeActions:
    """Answers with what its attributes hold; `asked` records the orders."""

    def __init__(self) -> None:
        self.asked: list[c.OrderRequest] = []
        self.refusal: DistqatError | None = None
        self.ending = job()
        self.looks = 1
        self.doctor_reply = DOCTOR
        self.moves_reply = MOVES

    async def order(self, request: c.OrderRequest) -> c.Job:
        self.asked.append(request)
        if self.refusal is not None:
            raise self.refusal
        return job(state="running", progress="front.0.0.0 draining", message="", exit_code=0)

    async def job(self, number: int) -> c.Job:
        if number != self.ending.number:
            raise NotFound(f"operation {number} is not known here (any more)")
        self.looks -= 1
        if self.looks >= 0:
            return job(state="running", progress="front.0.0.0 draining", message="")
        return self.ending

    async def jobs(self) -> c.Jobs:
        return c.Jobs(jobs=(self.ending,))

    async def moves(self, peer: str) -> c.Moves:
        found = [move for move in self.moves_reply.moves if peer in ("", move.nickname)]
        return self.moves_reply.model_copy(update={"moves": tuple(found)})

    async def why(self, peer: str) -> c.Why:
        reason = c.Reason(
            kind="placement", subject="back.0.0.0", text="back has no expert", time_unix_s=1.0
        )
        return c.Why(peer_id=PEER, nickname=peer or "alder-aaaa", reasons=(reason,))

    async def ping(self, peer: str, *, with_bandwidth: bool) -> c.Ping:
        return c.Ping(
            peer_id=OTHER,
            nickname=peer,
            rtt_s=0.02,
            jitter_s=0.001,
            up_bytes_per_s=3e6 if with_bandwidth else None,
            down_bytes_per_s=4e6 if with_bandwidth else None,
            clock_ahead_s=-0.2,
        )

    async def doctor(self) -> c.Doctor:
        return self.doctor_reply
