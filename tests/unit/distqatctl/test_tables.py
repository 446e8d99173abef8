import asyncio
import io

from rich.console import Console

from distqatctl import round_tables, tables
from distqatd.api import round_schema, schema
from tests.support import fake_provider as fake


def _console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=400, highlight=False, markup=False, emoji=False), out


def _status_text(**changes: object) -> str:
    console, out = _console()
    tables.show_status(console, fake.status(**changes))
    return out.getvalue()


def test_status_shows_swarm_stages_and_this_peer() -> None:
    shown = _status_text()
    assert "SWARM digits  ● training   outer step 3/10   loss 1.250   412 samples/s" in shown
    assert "2 pipelines" in shown
    assert "replicas identical" in shown
    assert "PEER alder-aaaa (you)  monitor, client  ● serving" in shown


def test_status_shows_gaps_with_what_fills_them_and_what_is_degraded() -> None:
    shown = _status_text(gaps=(fake.GAP,), degraded=("GPU not found, using the CPU",))
    assert "2 pipelines, 1 gap" in shown
    assert "next: distqatd --role expert --stage back" in shown
    assert "▲ GPU not found, using the CPU" in shown


def test_replicas_that_differ_are_said_to() -> None:
    differing = fake.stage(
        "front", fake.expert("front", 0), fake.expert("front", 1, digest="other")
    )
    assert "replicas differ" in _status_text(stages=(differing,))


def test_a_daemon_without_a_run_says_so() -> None:
    assert "SWARM digits   no run" in _status_text(training=None, run=None, stages=())


def test_text_chosen_by_a_peer_cannot_control_the_terminal_or_its_markup() -> None:
    shown = _status_text(degraded=("\x1b[2J[red]gone[/red]\nfake line",))
    assert "\x1b" not in shown
    assert r"\x1b[2J[red]gone[/red]\nfake line" in shown


def test_peers_pipelines_and_rounds_have_a_line_each() -> None:
    provider = fake.FakeProvider()
    console, out = _console()

    async def show() -> None:
        tables.show_peers(console, await provider.peers(), now_unix_s=13.0)
        tables.show_pipelines(console, await provider.pipelines())
        round_tables.show_rounds(console, await provider.rounds(20))
        tables.show_run(console, await provider.run())

    asyncio.run(show())
    shown = out.getvalue()
    assert "0.4 ms" in shown
    assert "2.0 MB" in shown
    assert "12 s ago" in shown
    assert "front.0.0.0 (birch-bbbb)" in shown
    assert "▲ gap in back" in shown
    assert "▲ aborted" in shown
    assert "birch-bbbb sent nothing for 15 s" in shown
    assert "outer step 4 of front is gathering: 1 ready, waits for front.0.1.0, 12 s" in shown
    assert "3 of 12 chunks, 3.0 MB of 12.0 MB (25%); behind: front.0.1.0" in shown
    assert "from front.0.1.0: 3 of 12 chunks, 3.0 MB of 12.0 MB (25%)" in shown
    assert "front: slices by measured lines: front.0.0.0 60% (200 Mbit/s)" in shown
    assert "300 committed, 0 replayed, 0 lost, 0 duplicated" in shown


def test_empty_replies_are_said_in_words() -> None:
    console, out = _console()
    tables.show_peers(console, schema.Peers(peers=()), 0.0)
    tables.show_pipelines(console, schema.Pipelines(pipelines=(), gaps=()))
    round_tables.show_rounds(console, round_schema.Rounds(rounds=()))
    assert out.getvalue().split("\n")[:3] == [
        "no other peer is known",
        "no pipeline is in use",
        "no round yet",
    ]


def test_an_event_is_one_line_whatever_its_fields_hold() -> None:
    event = schema.Event(
        number=1, time_unix_s=0.0, kind="round.aborted", fields={"why": "a\nb"}, degraded=True
    )
    line = tables.event_line(event).plain
    assert "▲ round.aborted  why=a\\nb" in line
    assert "\n" not in line
