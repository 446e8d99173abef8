"""The swarm's directory: signed, expiring records on UDP, built on `kademlia` 2.2.3.

May import net.address, identity and base; the only package that touches `kademlia`. Who publishes
what under which key is decided above. Read in this order: `limits`, `record` and `contact` (the
nouns), `datagram` and `messages` (the bytes), `quotas`, `storage`, `routing`, `calls`
(retransmission), `protocol` (what a node answers), `search` and `lookup` (finding), `server` (the
kademlia lifecycle), `publish` and `announce` (own records), `initial_peers`, `node` (the facade).
`docs/kademlia.md` says what is reused of the library, what is replaced, and why.
"""
