"""`distqatd --check`: would this daemon start here? Config is checked before this is called."""

import socket
from collections.abc import Sequence

from distqatd.base.errors import PortInUse
from distqatd.compute.device import pick_device
from distqatd.compute.precision import SLOW, check_precision
from distqatd.compute.stages import check_quant
from distqatd.config.network import NetworkConfig
from distqatd.config.schedules import RunSchedule
from distqatd.daemon.options import Options
from distqatd.models.schema import check_samples
from distqatd.optim.inner import check_inner_optimizer

_COMPUTING = frozenset({"expert", "trainer"})


def check(options: Options) -> tuple[str, ...]:
    """Check model, device and port; return one line each about what would be used.

    Raises:
        ConfigError: the stages do not make a model, the device is not there, or torch has no such
            inner optimizer, or a part of the quant section is for nothing.
        DeviceUnavailable: the device is not there, or cannot compute in the run's precision.
        UnknownModel: no such model or stage on this machine.
        PortInUse: another program has the port.
    """
    pipeline = options.config.model_pipeline.pipeline
    check_samples(pipeline)
    lines = [
        f"roles {', '.join(options.roles)}",
        f"model {' > '.join(stage.model_name for stage in pipeline)}",
    ]
    if _COMPUTING & set(options.roles):
        device = pick_device(options.config.device)
        lines.append(f"device {device.value}: {device.reason}")
        precision = check_precision(options.config.data.precision, device.value)
        lines += [f"warning: {precision.reason}"] if precision.value >= SLOW else []
        check_inner_optimizer(options.config.diloco.inner_optim)
        check_quant(options.config)
        momentum = RunSchedule(options.config.diloco).momentum_fits()
        lines += [] if momentum.value else [f"warning: {momentum.reason}"]
    return (*lines, *_check_ports(options.config.network))


def _check_ports(network: NetworkConfig) -> Sequence[str]:
    lines = []
    if network.port:
        _bind(network.host, network.port, socket.SOCK_STREAM)
        _bind(network.host, network.port, socket.SOCK_DGRAM)
        lines.append(f"port {network.port} free for TCP and UDP on {network.host}")
    if network.api_port > 0:
        _bind("127.0.0.1", network.api_port, socket.SOCK_STREAM)
        lines.append(f"API port {network.api_port} free on 127.0.0.1")
    return lines


def _bind(host: str, port: int, kind: socket.SocketKind) -> None:
    """Take the port as the daemon would, and let go of it again."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    protocol = "TCP" if kind is socket.SOCK_STREAM else "UDP"
    with socket.socket(family, kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUse(
                f"{protocol} port {port} on {host} cannot be used: {error.strerror}; "
                "stop what holds it (distqatctl status), or choose another one with "
                f"--port {port + 10}"
            ) from error
