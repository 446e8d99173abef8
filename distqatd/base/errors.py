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
    │   ├── HopLost              an expert of a route is gone, or does not answer
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
    ├── SwarmError               the swarm as a whole cannot do it now (exit 3)
    │   ├── NoRoute              a stage has no serving expert
    │   ├── StaleTerm            the caller's term of the client's duty is over
    │   └── RoundAborted         an outer step did not commit
    ├── CheckpointError          state on disk or from a donor is not acceptable
    └── ControlError             somebody asked for what cannot or must not be done (exit 3)
        ├── NotFound             no such peer, expert or operation (exit 5)
        ├── NotAllowed           this daemon's owner or the rules forbid it (exit 6)
        │   ├── UnknownOperator  ... the directive's key is no operator's here
        │   ├── TamperedDirective    ... its bytes are not what was signed, or not readable
        │   ├── ReplayedDirective    ... it was carried out already, or answers no challenge
        │   ├── ExpiredDirective     ... it came too late after its challenge
        │   ├── MisdirectedDirective ... it is for another peer, swarm or run
        │   ├── OutOfScope           ... the operator's key, or its own text, does not reach it
        │   └── KindRefused          ... the machine's owner takes no such directive
        ├── DeadlinePassed       the operation did not end in its time (exit 7)
        └── Unsafe               it would stop the training; ask with force (exit 8)

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


class NothingListens(DialError):
    """The machine is there and says that no daemon is: whoever was at this address has gone."""

    wire_code = "nothing-listens"


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


class HopLost(NetworkError):
    """An expert of a route cannot be reached by its neighbour, or does not answer any more.

    Attributes:
        uid: the expert; empty if it is not known which of the route it is.
    """

    wire_code = "hop-lost"

    def __init__(self, text: str, uid: str = "") -> None:
        super().__init__(text)
        self.uid = uid


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
    exit_code = 3
    retryable = True


class NoRoute(SwarmError):
    """A stage of the model has no serving expert."""

    wire_code = "no-route"


class StaleTerm(SwarmError):
    """The caller does not hold the client's duty any more, or never did: a higher term is known."""

    wire_code = "stale-term"
    retryable = False


class RoundAborted(SwarmError):
    """A round ended without a committed outer step."""

    wire_code = "round-aborted"


class CheckpointError(DistqatError):
    """State on disk or from a donor is missing, corrupt or of another run."""

    wire_code = "checkpoint"


class ControlError(DistqatError):
    """Somebody asked this daemon for something that cannot or must not be done."""

    wire_code = "control"
    exit_code = 3


class NotFound(ControlError):
    """No such peer, expert or operation is known, or the name fits several."""

    wire_code = "not-found"
    exit_code = 5


class NotAllowed(ControlError):
    """Whoever asked may not do this here."""

    wire_code = "not-allowed"
    exit_code = 6


class UnknownOperator(NotAllowed):
    """The directive is signed with a key that is no operator's on this machine."""

    wire_code = "directive-unknown-operator"


class TamperedDirective(NotAllowed):
    """The directive cannot be read, or its bytes are not the ones that were signed."""

    wire_code = "directive-tampered"


class ReplayedDirective(NotAllowed):
    """The directive's challenge was answered before, or never given to this caller."""

    wire_code = "directive-replayed"


class ExpiredDirective(NotAllowed):
    """The directive came too late after the challenge that it answers."""

    wire_code = "directive-expired"


class MisdirectedDirective(NotAllowed):
    """The directive was signed for another peer, another swarm or another run."""

    wire_code = "directive-misdirected"


class OutOfScope(NotAllowed):
    """The directive reaches further than the operator's key or its own scope."""

    wire_code = "directive-out-of-scope"


class KindRefused(NotAllowed):
    """The owner of the machine takes no directive of this kind."""

    wire_code = "directive-kind-refused"


class DeadlinePassed(ControlError):
    """The operation did not end within the time that was given."""

    wire_code = "deadline-passed"
    exit_code = 7


class Unsafe(ControlError):
    """The training would stop: the last replica of a stage is asked to leave without force."""

    wire_code = "unsafe"
    exit_code = 8


def _subclasses(cls: type[DistqatError]) -> list[type[DistqatError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _subclasses(sub))]


def error_for_code(wire_code: str) -> type[DistqatError]:
    """Return the class whose `wire_code` this is; DistqatError for a code we do not know."""
    return {cls.wire_code: cls for cls in _subclasses(DistqatError)}.get(wire_code, DistqatError)
