"""The wire as pure bytes and state: no asyncio, no sockets, no tensors of any library.

May import `base`. Read in this order: `limits` (every byte limit), `payload` (what a message
is), `frame` (the 16-byte prefix and the decoder), `messages` (the headers of the frame types),
`budget`, `streams` (the state table of one stream) and `table` (the streams of a link), `outbox`
(what is sent next), `events`, `session` (all of it together, one per link).
"""
