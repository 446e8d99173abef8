"""hivemind's RemoteExpert in a server process, and the same block computed here.

The optimizer takes no visible time (plain SGD with a rate of 0), but hivemind's backward computes
forward again: that is how it works.
"""

import json
import os
import sys
import time

os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")

import torch
from hivemind import DHT
from hivemind.moe.client.expert import RemoteExpert
from hivemind.moe.client.remote_expert_worker import RemoteExpertWorker
from hivemind.moe.expert_uid import ExpertInfo
from hivemind.moe.server import ModuleBackend, Server
from hivemind.moe.server.layers import name_to_block
from hivemind.p2p import P2P
from hivemind.utils.tensor_descr import BatchTensorDescriptor


def say(**fields):
    print(json.dumps(fields), flush=True)


def start_server(hid, batch):
    dht = DHT(start=True, startup_timeout=60)
    module = name_to_block["ffn"](hid)
    backend = ModuleBackend(
        name="expert.0",
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.0),
        args_schema=(BatchTensorDescriptor(hid),),
        outputs_schema=BatchTensorDescriptor(hid),
        max_batch_size=batch * 4,
    )
    server = Server(
        dht=dht, module_backends={"expert.0": backend}, num_connection_handlers=1, device="cpu"
    )
    server.start()
    server.ready.wait()
    return dht, server


def seconds(module, inputs):
    began = time.perf_counter()
    inputs = inputs.clone().requires_grad_()
    module(inputs).sum().backward()
    return time.perf_counter() - began


def main():
    torch.set_num_threads(1)
    hid, batch = int(sys.argv[1]), int(sys.argv[2])
    dht, server = start_server(hid, batch)
    p2p = RemoteExpertWorker.run_coroutine(
        P2P.create(initial_peers=dht.get_visible_maddrs(), startup_timeout=60)
    )
    info = ExpertInfo(uid="expert.0", peer_id=dht.peer_id)
    remote, local = RemoteExpert(expert_info=info, p2p=p2p), name_to_block["ffn"](hid)
    inputs = torch.randn(batch, hid)
    say(ready=True)
    for _ in sys.stdin:
        say(**{"hivemind": seconds(remote, inputs), "hivemind local": seconds(local, inputs)})
    server.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    main()
