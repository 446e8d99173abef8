"""hivemind's averager: members in processes of their own, each with a DHT process and a p2pd.

Seconds are those of the all-reduce alone, from the first member that begins it to the last that
has ended; finding a group is not counted.
"""

import json
import os
import sys
import threading
import time

os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")

import torch
from hivemind import DHT, DecentralizedAverager
from hivemind.averaging.control import AveragingStage
from hivemind.utils import get_dht_time

MATCHMAKING_S = 5.0


def say(**fields):
    print(json.dumps(fields), flush=True)


def start(num, num_values):
    dhts = [DHT(start=True, startup_timeout=60)]
    known = dhts[0].get_visible_maddrs()
    dhts += [DHT(initial_peers=known, start=True, startup_timeout=60) for _ in range(num - 1)]
    return dhts, [
        DecentralizedAverager(
            [torch.randn(num_values, generator=torch.Generator().manual_seed(rank))],
            dht,
            prefix="bench",
            target_group_size=num,
            min_group_size=num,
            min_matchmaking_time=MATCHMAKING_S,
            request_timeout=MATCHMAKING_S * 0.6,
            start=True,
        )
        for rank, dht in enumerate(dhts)
    ]


def average(averagers):
    begun, ended = {}, {}

    def one(rank):
        when = get_dht_time() + MATCHMAKING_S
        step = averagers[rank].step(wait=False, timeout=120, scheduled_time=when)
        while not step.done():
            if rank not in begun and step.stage == AveragingStage.RUNNING_ALLREDUCE:
                begun[rank] = time.perf_counter()
            time.sleep(0.005)
        ended[rank] = time.perf_counter()
        if len(step.result()) != len(averagers):
            raise RuntimeError("hivemind averaged in a smaller group")

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(averagers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(ended.values()) - min(begun.values())


def main():
    torch.set_num_threads(1)
    dhts, averagers = start(int(sys.argv[1]), int(sys.argv[2]))
    say(ready=True)
    for line in sys.stdin:
        json.loads(line)
        say(seconds=average(averagers))
    for one in [*averagers, *dhts]:
        one.shutdown()


if __name__ == "__main__":
    main()
