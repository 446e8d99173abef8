"""Who a peer is, and who belongs to a swarm: keys, the swarm secret, TLS contexts, invites.

May import wire, config and base; opens no sockets. Read in this order: `private_file` (how secrets
lie on disk), `keys` (peer id = hash of a public key), `swarm` (what a secret derives), `tls`
(membership proven on every link), `invite` (a join line as one word), `directive`, `challenge` and
`operator` (orders to other machines, and whose are taken).
"""
