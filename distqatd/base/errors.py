"""Every error DistQat raises on purpose, in one tree.

    DistqatError
    ├── ConfigError              the configuration cannot be used (exit 78)
    │   └── DeviceUnavailable    the device asked for is not there (exit 78)
    ├── IdentityError            a key, certificate, secret, invite or address is unusable
    ├── ProtocolError            bytes broke the rules
    │   ├── LocalProtocolError   ... by us: a bug
    │   └── RemoteProtocolError  ... by the peer
    ├── NetworkError             a link or a call failed
    │   ├── DialError            no link could be made
    │   ├── Refused              the peer answered HELLO with a refusal: other swarm, run, version
    │   ├── PeerTimeout          the deadline passed
    │   ├── ConnectionClosed     the link broke
    │   ├── NotServed            the peer has no handler for the method
    │   ├── Overloaded           the peer or we are over a budget; come back later
    │   ├── PortInUse            the listening port is taken (exit 69)
    │   └── JoinFailed           none of the initial peers answered (exit 69)
    ├── RecordError              a DHT record is not acceptable
    ├── ComputeError             a stage could not do its work
    │   ├── UnknownModel         no such model or stage on this machine (exit 78)
    │   ├── ExpertNotFound       the expert is not hosted here (any more)
    │   ├── StepAborted          the step was given up; replay it
    │   ├── NonFinite            NaN or infinity where a number was needed
    │   └── OutOfMemory          the device has no room
    ├── SwarmError               the swarm as a whole cannot do it now
    │   ├── NoRoute              a stage has no serving expert
    │   └── RoundAborted         an outer step did not commit
    └── CheckpointError          state on disk or from a donor is not acceptable

Rules. A message says what happened, with which values, and what to do. `wire_code` is what
travels in an ERROR frame, never a class name or a traceback. `retryable`: the same call may
succeed later. `blames_peer`: the other side is at fault, and its links may be dropped.
"""

from typing import ClassVar


class DistqatError(Exception):
    """Base of every error raised on purpose.

    Attributes:
        wire_code: stable name of this kind of error in ERROR frames and in `--json`.
        retryable: whether the same call may succeed later.
        blames_peer: whether the other side broke the rules.
        exit_code: what a command exits with when this error ends it.
    """

    wire_code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    blames_peer: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


class ConfigError(DistqatError):
    """The configuration cannot be used; the message names file and key."""

    wire_code = "config"
    exit_code = 78


class DeviceUnavailable(ConfigError):
    """The device asked for is not on this machine."""

    wire_code = "device-unavailable"


class IdentityError(DistqatError):
    """A key, certificate, secret, invite or address is unusable."""

    wire_code = "identity"
    exit_code = 78


class ProtocolError(DistqatError):
    """Bytes broke the rules of the wire."""

    wire_code = "protocol"


class LocalProtocolError(ProtocolError):
    """We tried to send what the protocol forbids: a bug here."""

    wire_code = "protocol-local"


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids."""

    wire_code = "protocol-remote"
    blames_peer = True


class NetworkError(DistqatError):
    """A link or a call failed."""

    wire_code = "network"
    retryable = True
    exit_code = 69


class DialError(NetworkError):
    """No link to the peer could be made."""

    wire_code = "dial"


class Refused(NetworkError):
    """The peer read our HELLO and does not want the link: other swarm, run or version."""

    wire_code = "refused"
    retryable = False


class PeerTimeout(NetworkError):
    """The peer did not answer before the deadline."""

    wire_code = "timeout"


class ConnectionClosed(NetworkError):
    """The link broke or was closed."""

    wire_code = "closed"


class Overloaded(NetworkError):
    """A budget is used up (bytes in flight, streams, a full queue); try again later."""

    wire_code = "overloaded"


class NotServed(NetworkError):
    """The peer has no handler for this method: it lacks the role, or has not started it yet."""

    wire_code = "not-served"


class PortInUse(NetworkError):
    """The port to listen on is taken."""

    wire_code = "port-in-use"
    retryable = False


class JoinFailed(NetworkError):
    """None of the initial peers let us in."""

    wire_code = "join-failed"


class RecordError(DistqatError):
    """A DHT record is not acceptable: signature, size, age or quota."""

    wire_code = "record"


class ComputeError(DistqatError):
    """A stage could not do its work."""

    wire_code = "compute"


class UnknownModel(ComputeError):
    """No such model or stage is registered on this machine."""

    wire_code = "unknown-model"
    exit_code = 78


class ExpertNotFound(ComputeError):
    """The expert is not hosted here, or not any more."""

    wire_code = "expert-not-found"
    retryable = True


class StepAborted(ComputeError):
    """The inner step was given up before COMMIT; its batches must be replayed."""

    wire_code = "step-aborted"
    retryable = True


class NonFinite(ComputeError):
    """A NaN or an infinity where a number was needed."""

    wire_code = "non-finite"


class OutOfMemory(ComputeError):
    """The device has no room for what was asked."""

    wire_code = "out-of-memory"
    retryable = True


class SwarmError(DistqatError):
    """The swarm as a whole cannot do this now."""

    wire_code = "swarm"
    retryable = True


class NoRoute(SwarmError):
    """A stage of the model has no serving expert."""

    wire_code = "no-route"


class RoundAborted(SwarmError):
    """A round ended without a committed outer step."""

    wire_code = "round-aborted"


class CheckpointError(DistqatError):
    """State on disk or from a donor is missing, corrupt or of another run."""

    wire_code = "checkpoint"


def _subclasses(cls: type[DistqatError]) -> list[type[DistqatError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _subclasses(sub))]


def error_for_code(wire_code: str) -> type[DistqatError]:
    """Return the class whose `wire_code` this is; DistqatError for a code we do not know."""
    return {cls.wire_code: cls for cls in _subclasses(DistqatError)}.get(wire_code, DistqatError)
