from distqatd.roles import absence as module
from distqatd.swarm import records as r
from tests.support.contexts import World, kinds
from tests.support.views import record

RUN = "distqat"


def world_with(*experts):
    world = World()
    for peer, uid in experts:
        world.board.put(r.stage_key(RUN, 0), peer, "0", record(uid).pack())
    return world


async def test_the_view_holds_what_the_records_say():
    world = world_with(("a", "front.0.0.0"))
    world.board.put(r.PEERS_KEY, "a", "", r.PeerRecord((), ("expert",), "1", 1).pack())
    view = await world.context("me").directory.refresh()
    assert [e.peer_id for e in view.stage("front").serving] == ["a"]
    assert view.gaps == ("back",)
    assert view.peers["a"].roles == ("expert",)


async def test_addresses_in_records_become_known_to_the_rpc():
    world = world_with(("a", "front.0.0.0"))
    context = world.context("me")
    await context.directory.refresh()
    assert [a.host for a in world.net.peer("me").learned["a"]] == ["10.0.0.1"]


async def test_nonsense_in_a_record_hides_nobody_else():
    world = world_with(("a", "front.0.0.0"))
    world.board.put(r.stage_key(RUN, 0), "evil", "0", b"\xff\x00")
    world.board.put(r.stage_key(RUN, 0), "odd", "0", record("front").pack())
    view = await world.context("me").directory.refresh()
    assert [e.peer_id for e in view.stage("front").experts] == ["a"]


async def test_a_peer_that_died_is_left_out_though_its_record_lives_on():
    world = world_with(("a", "front.0.0.0"), ("b", "front.0.1.0"))
    context = world.context("me")
    await context.directory.refresh()
    world.net.peer("me").lose("a", "reset")
    view = await context.directory.refresh()
    assert [e.peer_id for e in view.stage("front").serving] == ["b"]
    assert "peer.left_out" in kinds(context)


async def test_a_newer_record_brings_a_peer_back():
    world = world_with(("a", "front.0.0.0"))
    context = world.context("me")
    await context.directory.refresh()
    context.directory.mark_lost("a", "reset")
    await context.directory.refresh()
    world.board.put(r.stage_key(RUN, 0), "a", "0", record("front.0.0.0", epoch=2).pack())
    view = await context.directory.refresh()
    assert [e.record.boot_epoch for e in view.stage("front").serving] == [2]
    assert kinds(context)[-1] == "peer.back"


async def test_a_joiner_shows_up_with_and_without_a_slot():
    world = World()
    world.board.put(r.joining_key(RUN), "a", "0", record("", state="joining").pack())
    world.board.put(r.joining_key(RUN), "b", "0", record("back.0.0.0", state="joining").pack())
    view = await world.context("me").directory.refresh()
    assert {e.peer_id for e in view.joiners} == {"a", "b"}
    assert [e.peer_id for e in view.stage("back").experts] == ["b"]
    assert view.gaps == ("front", "back")


async def test_what_is_remembered_of_peers_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_PEERS", 3)
    world = world_with(*((f"p{i}", f"front.0.{i}.0") for i in range(9)))
    context = world.context("me")
    await context.directory.refresh()
    for i in range(9):
        context.directory.mark_lost(f"p{i}", "reset")
    assert len(context.directory._absence._absent) == 3
    assert len(context.directory._absence._seqs) == 3


async def test_a_peer_with_too_many_records_is_not_remembered_in_full(monkeypatch):
    monkeypatch.setattr(module, "MAX_PEERS", 5)
    monkeypatch.setattr(module, "MAX_RECORDS_PER_PEER", 3)
    world = World()
    directory = world.context("me").directory
    for number in range(20):
        directory.mark_lost(f"p{number}", "gone")
        world.board.put(r.PEERS_KEY, f"p{number}", "", r.PeerRecord((), (), "1", 1).pack())
        world.board.put(r.PEERS_KEY, "noisy", str(number), r.PeerRecord((), (), "1", 1).pack())
    await directory.refresh()
    assert len(directory._absence._absent) <= 5
    assert len(directory._absence._seqs) <= 5
    assert len(directory._absence._seqs["noisy"]) == 3


async def test_mirrors_are_read_the_newest_checkpoint_first():
    world = World()
    for peer, outer_step in (("a", 3), ("b", 7), ("c", 7)):
        packed = r.MirrorRecord((), 1, outer_step, "digest").pack()
        world.board.put(r.mirror_key(RUN), peer, "", packed)
    world.board.put(r.mirror_key(RUN), "evil", "", b"nonsense")
    mirrors = await world.context("me").directory.mirrors()
    assert [(peer, record.outer_step) for peer, record in mirrors] == [("b", 7), ("c", 7), ("a", 3)]
