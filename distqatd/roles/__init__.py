"""What each role does with the packages below. Only `expert`, `trainer` and `baseline` need torch.

Read in this order: `context` (what every role is given), `directory` (the swarm as this daemon
sees it), `claim` and `expert`, `state_loader` and `lost_state` (where its state comes from),
`client_calls` and `client` (pipelines and leases), `trainer`,
`batches` and `data_server` (where batches come from), `monitor`, `baseline` (the same run, unsplit,
as plain torch: the oracle).
"""
