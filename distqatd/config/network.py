"""How this daemon is reached, and whom it asks first."""

from pathlib import Path

from pydantic import Field

from distqatd.config.section import PositiveFloat, Section


class NetworkConfig(Section):
    """How this daemon is reached and whom it asks first. Local to a machine."""

    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104  a peer-to-peer daemon is reached from outside
    port: int = Field(29700, ge=0, le=65535, description="TCP and UDP port; 0 picks a free one")
    api_port: int = Field(
        29701, ge=-1, le=65535, description="loopback HTTP port; 0 picks one, -1 disables it"
    )
    join: tuple[str, ...] = Field(
        (), description="initial peers: host:port, multiaddr, dq1: invite or @file"
    )
    public_ip: str | None = Field(None, description="address others can reach this machine at")
    announce: tuple[str, ...] = Field(
        (), description="addresses to advertise instead of the detected ones"
    )
    client_mode: bool = Field(
        default=False,
        description="nobody can connect to this machine (it is behind NAT): it connects to"
        " the others, and owns no slices of outer steps",
    )
    join_timeout: PositiveFloat = Field(60.0, description="seconds to find a first peer")
    swarm_name: str = Field(
        "distqat", description="name of the swarm; an open swarm is defined by it"
    )
    open_swarm: bool = Field(
        default=False, description="anyone who knows the swarm's name may join"
    )
    secret_file: Path | None = Field(None, description="file with the swarm secret, mode 0600")
    max_peers: int = Field(512, ge=1, description="connections kept at most")
    bytes_in_flight: int = Field(
        1 << 30, ge=1 << 20, description="bytes of incoming tensors held at most, all peers"
    )
    upload_slots: int = Field(
        4, ge=1, le=256, description="joiners and mirrors that get state from here at once"
    )
