"""We override parts of kademlia 2.2.3: an upgrade must make somebody look at them again."""

import hashlib
import inspect
from importlib.metadata import version
from types import ModuleType

import pytest
from kademlia import network, node, protocol, routing, storage
from rpcudp import protocol as rpcudp

from distqatd.base.errors import LocalProtocolError
from distqatd.dht.server import DhtServer

SOURCES = {
    network: "baa3a24eef5a8791",
    node: "6a4cbe4a92533f29",
    protocol: "23c0fa5fc4805cdc",
    routing: "fe07faf016cc6c99",
    storage: "0fee608fd4a2200d",
    rpcudp: "e2d8e7552cddf14e",
}


@pytest.mark.parametrize("module", SOURCES, ids=lambda module: module.__name__)
def test_the_code_we_build_on_is_the_code_we_read(module: ModuleType) -> None:
    source = inspect.getsource(module).encode()
    assert hashlib.sha256(source).hexdigest()[:16] == SOURCES[module]


def test_kademlia_is_the_pinned_version() -> None:
    assert version("kademlia") == "2.2.3"


@pytest.mark.parametrize("name", ["get", "set", "bootstrap", "save_state", "load_state"])
def test_what_we_do_not_use_of_it_is_refused(name: str) -> None:
    with pytest.raises(LocalProtocolError, match="not used"):
        getattr(DhtServer, name)(None)
