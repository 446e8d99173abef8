"""Links between peers: transports, connections, remote calls; asyncio, never torch.

May import `base`, `config`, `wire`, `identity`. Read in this order: `address`, `transport` (the
seam that tests and the simulator implement too), `rpc` (what everybody above depends on),
`hello`, `results` and `server` (requests that come in), `keeper`, `connection` (one link), `links`
and `book`, `pool` (all links of a daemon), then the real thing: `sockets`, `secure`, `gate`,
`tcp`.
"""
