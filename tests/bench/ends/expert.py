"""The process that hosts the expert, as an expert daemon does: our host, over TLS."""

import sys

from distqatd.base.ids import ExpertUid
from distqatd.compute.executor import DeviceExecutor
from distqatd.compute.expert import Expert
from distqatd.config.sections import (
    DilocoConfig,
    InnerOptimConfig,
    ModelPipelineConfig,
    OuterOptimConfig,
)
from distqatd.data.tasks import task
from distqatd.pipeline.host import StageHost
from distqatd.pipeline.hosted import HostedExpert
from tests.bench import ffn, links
from tests.bench.children import say

UID = ExpertUid("bench.0.0.0")


async def serve(hid: int) -> None:
    async with links.running_pool(links.SERVER, secure=True) as (pool, address):
        executor = DeviceExecutor("cpu", num_threads=1)
        criterion = task("cv")
        expert = Expert(UID, ffn.stage(hid), InnerOptimConfig(), OuterOptimConfig())
        hosted = HostedExpert(
            UID, expert, executor, pool, DilocoConfig(), ModelPipelineConfig(), criterion
        )
        StageHost(pool, 1 << 30, 1).attach(hosted)
        say(port=address.port)
        await links.parent_is_gone()
        executor.close()


def main() -> None:
    with links.loop() as runner:
        runner.run(serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
