"""One caller on the control socket: its requests in order, replies, streams, faults. Accepting it is done elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Final, TypeAlias

import structlog

from nanumpay_backupd.control.access import Peer, peer_of
from nanumpay_backupd.control.idl import Interface, InvalidParameter
from nanumpay_backupd.control.wire import MAX_MESSAGE, Frame, Framer, encode
from nanumpay_backupd.errors import BackupdError, BusyError, NotFoundError, RefusedError
from nanumpay_backupd.messages import Message
from nanumpay_backupd.system.secrets import redact

__all__ = [
    "SERVICE",
    "Call",
    "Connection",
    "ExpectedMore",
    "Handed",
    "Handler",
    "Limits",
    "ProtocolError",
    "Service",
    "fault_of",
]

_log = structlog.get_logger(__name__)

SERVICE: Final = "org.varlink.service"
_READ_SIZE: Final = 64 << 10
_LINGER: Final = 2.0
_CLEAN_UP_TURNS: Final = 10
_PROTOCOL_HINT: Final = 'a request is one JSON object, for example {"method":"com.nanumpay.Backup.GetStatus"}'


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the server; times in seconds, sizes in bytes."""

    connections: int = 128
    """When full, the connection that has been idle longest makes room."""
    watchers: int = 32
    """Streams at the same time; one more is answered with Busy."""
    message: int = MAX_MESSAGE
    incomplete: float = 30.0
    """From a message's first byte to its end."""
    idle: float = 300.0
    """Without any message."""
    blocked_write: float = 30.0
    """A caller that has not taken a single byte of its reply for so long is dropped."""
    hangup_poll: float = 1.0
    """How often a stream looks whether its caller is still there, where the kernel gives no event."""
    close_grace: float = 5.0
    """What calls in progress have to end when the server closes."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose parameters fit the interface. ``more``: the caller wants every reply of a stream."""

    method: str
    params: dict[str, Any]
    more: bool
    peer: Peer


class Handed(dict[str, Any]):
    """A reply that hands a descriptor over (SCM_RIGHTS); it is closed here once it was sent, or could not be."""

    def __init__(self, reply: Mapping[str, Any], fd: int) -> None:
        super().__init__(reply)
        self.fd = fd


Handler: TypeAlias = Callable[[Call], Awaitable[dict[str, Any]] | AsyncIterator[dict[str, Any]]]
"""A coroutine function for one reply, or an async generator function for a stream of replies.

A caller that did not ask for more gets a generator's first reply, and the generator is closed. A generator should
end right after its last reply: the server runs one step ahead, so it can mark that reply as the last one. If it ends
only later, the last reply is sent once more with that mark (the protocol has no other way to say so).
When the caller goes away, the generator is cancelled where it waits. BackupdError becomes an error reply.
"""


class ExpectedMore(Exception):  # noqa: N818 - the protocol's own name for it
    """Raised by a handler that makes no sense without ``more``."""


class ProtocolError(Exception):
    """An error of ``org.varlink.service``."""

    def __init__(self, name: str, **parameters: str) -> None:
        super().__init__(name)
        self.name = f"{SERVICE}.{name}"
        self.parameters = parameters


class _GoneError(Exception):
    """The caller went away or does not read; nothing can be told to it any more."""


@dataclass(slots=True)
class Service:
    """What all connections share."""

    name: str
    """The main interface; its errors are used for faults."""
    interfaces: Mapping[str, tuple[Interface, Mapping[str, Handler]]]
    limits: Limits
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    """The envelope of one request, and how its replies must end."""

    interface: str
    method: str
    params: dict[str, Any]
    more: bool
    oneway: bool
    terminator: bytes

    @classmethod
    def read(cls, body: dict[str, Any], terminator: bytes) -> _Request:
        """Check the envelope; raises InvalidParameter naming the key."""
        for key in body:
            if key not in ("method", "parameters", "more", "oneway", "upgrade"):
                raise InvalidParameter(key[:100], "a request has method, parameters, more and oneway, nothing else")
        method = body.get("method")
        if not isinstance(method, str) or "." not in method:
            raise InvalidParameter("method", "must be a full name such as com.nanumpay.Backup.GetStatus")
        params = body.get("parameters")
        if params is not None and not isinstance(params, dict):
            raise InvalidParameter("parameters", "must be an object")
        for key in ("more", "oneway", "upgrade"):
            if not isinstance(body.get(key, False), (bool, NoneType)):
                raise InvalidParameter(key, "must be true or false")
        if body.get("upgrade"):
            raise InvalidParameter("upgrade", "is not offered here")
        interface, _, name = method.rpartition(".")
        return cls(interface, name, params or {}, bool(body.get("more")), bool(body.get("oneway")), terminator)


class Connection:
    """One caller: reads a request, answers it, reads the next."""

    def __init__(self, service: Service, accepted: socket.socket) -> None:
        self.peer = peer_of(accepted)
        self.busy = False
        self.active = asyncio.get_running_loop().time()
        self._service = service
        self._socket = accepted
        self._framer = Framer(service.limits.message)
        self._ended = False
        self._writing = asyncio.Lock()

    async def serve(self) -> None:
        """Answer requests until the caller is done, goes away or breaks a rule; `close` is left to the owner."""
        loop = asyncio.get_running_loop()
        try:
            while not self._service.stopping.is_set() and (frame := await self._next_frame()) is not None:
                self.busy = True
                await self._answer(frame)
                if frame.fatal:
                    await self._linger()
                    return
                # Reading and writing succeed at once while a caller keeps up: give the others their turn.
                await asyncio.sleep(0)
                self.active = loop.time()
                self.busy = False
        except _GoneError as fault:
            _log.info("control connection dropped", pid=self.peer.pid, uid=self.peer.uid, reason=str(fault))

    def close(self) -> None:
        """Close the socket; harmless when it is closed."""
        self._socket.close()

    # -------------------------------------------------------------------------------------------------- input

    async def _next_frame(self) -> Frame | None:
        """Return the next message, None when there will be none."""
        loop = asyncio.get_running_loop()
        limits = self._service.limits
        since, pending = loop.time(), self._framer.pending
        while (frame := self._framer.take()) is None:
            if self._ended:
                return None
            if self._framer.pending and not pending:
                since, pending = loop.time(), True
            try:
                async with asyncio.timeout_at(since + (limits.incomplete if pending else limits.idle)):
                    data = await loop.sock_recv(self._socket, _READ_SIZE)
            except TimeoutError:
                if not pending:
                    return None
                return Frame(None, b"\0", f"its end did not come within {limits.incomplete:g} s", fatal=True)
            except OSError:
                return None
            self._framer.feed(data)
            if not data:
                self._ended = True
                self._framer.end()
        return frame

    async def _linger(self) -> None:
        """Take in what a caller is still sending, for a moment: closing at once would make it lose the reply."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_LINGER):  # its TimeoutError is an OSError
                while await loop.sock_recv(self._socket, _READ_SIZE):  # noqa: ASYNC110 - gives others their turn
                    await asyncio.sleep(0)

    # -------------------------------------------------------------------------------------------------- calls

    async def _answer(self, frame: Frame) -> None:
        """Turn one frame into its reply or replies; every fault becomes an error reply here."""
        if frame.body is None:
            problem = BackupdError(
                f"the request cannot be read: {frame.problem}", hint=_PROTOCOL_HINT, code="bad-request"
            )
            await self._fail(frame, problem, oneway=False)
            return
        oneway = False
        try:
            request = _Request.read(frame.body, frame.terminator)
            oneway = request.oneway
            await self._dispatch(request)
        except _GoneError:
            raise
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            await self._fail(frame, fault, oneway=oneway)  # something inside the handler was cancelled, not we
        except Exception as fault:  # noqa: BLE001 - whatever it is, the caller gets an answer
            await self._fail(frame, fault, oneway=oneway)

    async def _fail(self, frame: Frame, fault: BaseException, *, oneway: bool) -> None:
        method = str((frame.body or {}).get("method"))[:200]
        name, parameters = _error_reply(fault, self._service.name, method)
        if not oneway:
            await self._send({"error": name, "parameters": parameters}, frame.terminator)

    async def _dispatch(self, request: _Request) -> None:
        full_name = f"{request.interface}.{request.method}"
        try:
            interface, handlers = self._service.interfaces[request.interface]
        except KeyError:
            raise ProtocolError("InterfaceNotFound", interface=request.interface) from None
        if request.method not in interface.methods:
            raise ProtocolError("MethodNotFound", method=full_name)
        if request.method not in handlers:
            raise ProtocolError("MethodNotImplemented", method=full_name)
        interface.validate_in(request.method, request.params)
        call = Call(request.method, request.params, request.more and not request.oneway, self.peer)
        outcome = handlers[request.method](call)
        if isinstance(outcome, AsyncIterator):
            await self._stream(request, interface, outcome, more=call.more)
        else:
            await self._reply(request, interface, await outcome)

    async def _reply(
        self, request: _Request, interface: Interface, parameters: dict[str, Any], *, continues: bool = False
    ) -> None:
        fd = parameters.fd if isinstance(parameters, Handed) else None
        try:
            try:
                interface.validate_out(request.method, parameters)
            except InvalidParameter as fault:
                raise TypeError(f"the handler of {request.method} made a reply that does not fit: {fault}") from fault
            if request.oneway:
                return
            message: dict[str, Any] = {"parameters": parameters}
            if continues:
                message["continues"] = True
            await self._send(message, request.terminator, fd)
        finally:
            if fd is not None:
                os.close(fd)

    # ------------------------------------------------------------------------------------------------ streams

    async def _stream(
        self, request: _Request, interface: Interface, replies: AsyncIterator[dict[str, Any]], *, more: bool
    ) -> None:
        """Pump a generator's replies out until it ends, the caller goes away or the server closes."""
        service = self._service
        if more and service.watchers >= service.limits.watchers:
            raise BusyError(
                f"{service.limits.watchers} watchers are connected already, which is the most there may be",
                hint="end one of them (backupctl status --watch, a web page, a running backupctl run)",
            )
        service.watchers += more
        pump = asyncio.create_task(self._pump(request, interface, replies, more=more))
        gone = asyncio.create_task(_hangup(self._socket, service.limits.hangup_poll))
        stopping = asyncio.create_task(service.stopping.wait())
        try:
            await asyncio.wait({pump, gone, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not pump.done():
                await self._stop_pump(pump, gone=gone.done())
            await pump
        finally:
            service.watchers -= more
            for task in (pump, gone, stopping):
                task.cancel()
            await asyncio.gather(pump, gone, stopping, return_exceptions=True)

    async def _stop_pump(self, pump: asyncio.Task[None], *, gone: bool) -> None:
        if gone:
            raise _GoneError("the watcher went away")
        async with self._writing:  # not in the middle of a reply
            if not pump.done():
                pump.cancel()
                await asyncio.wait({pump})
                raise BackupdError(
                    "the daemon is stopping",
                    hint="a run goes on or is recorded as interrupted; see: backupctl runs",
                    code="daemon-stopping",
                    retryable=True,
                )

    async def _pump(
        self, request: _Request, interface: Interface, replies: AsyncIterator[dict[str, Any]], *, more: bool
    ) -> None:
        step = asyncio.create_task(_step(replies))
        try:
            reply = await step
            if reply is None:
                raise TypeError(f"the handler of {request.method} made no reply")
            while more:
                step = asyncio.create_task(_step(replies))
                if await _ends_now(step):
                    break
                await self._reply(request, interface, reply, continues=True)
                following = await step
                if following is None:
                    break
                reply = following
            await self._reply(request, interface, reply)
        finally:
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
            if isinstance(replies, AsyncGenerator):
                await replies.aclose()

    # ------------------------------------------------------------------------------------------------- output

    async def _send(self, message: dict[str, Any], terminator: bytes, fd: int | None = None) -> None:
        """Write one message as a whole, a descriptor with its first byte.

        Raises _GoneError when the caller went away or takes nothing any more.
        """
        rest = memoryview(encode(message, terminator))
        async with self._writing:
            while rest:
                try:
                    sent = self._socket.send(rest) if fd is None else socket.send_fds(self._socket, [rest], [fd])
                    rest, fd = rest[sent:], None
                except BlockingIOError:
                    await self._writable()
                except OSError as error:
                    raise _GoneError(f"the caller went away: {error.strerror}") from None

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._socket, ready.set)
        try:
            async with asyncio.timeout(self._service.limits.blocked_write):
                await ready.wait()
        except TimeoutError:
            raise _GoneError(f"the caller has read nothing for {self._service.limits.blocked_write:g} s") from None
        finally:
            loop.remove_writer(self._socket)


async def _step(replies: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    """Return a generator's next reply, None at its end."""
    try:
        return await anext(replies)
    except StopAsyncIteration:
        return None


async def _ends_now(step: asyncio.Task[dict[str, Any] | None]) -> bool:
    """Run one step ahead (see Handler): tell whether a generator ends without waiting for anything but its clean-up."""
    for _ in range(_CLEAN_UP_TURNS):
        if step.done():
            return not step.cancelled() and step.exception() is None and step.result() is None
        await asyncio.sleep(0)
    return False


async def _hangup(connection: socket.socket, interval: float) -> None:
    """Return when the caller has closed the connection as a whole; a half-close or a further request is no hang-up."""
    loop = asyncio.get_running_loop()
    poll = select.poll()
    poll.register(connection, 0)  # the kernel reports POLLHUP and POLLERR unasked
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    while not poll.poll(0):  # noqa: ASYNC110 - the kernel has no event for it once input is left unread
        await asyncio.sleep(interval)


def _error_reply(fault: BaseException, interface: str, method: str) -> tuple[str, dict[str, Any]]:
    """Translate an exception into an error's name and parameters; what nobody expected is logged and stays here."""
    match fault:
        case ProtocolError():
            return fault.name, dict(fault.parameters)
        case InvalidParameter():
            return f"{SERVICE}.InvalidParameter", {"parameter": fault.path, "reason": fault.reason}
        case ExpectedMore():
            return f"{SERVICE}.ExpectedMore", {}
        case NotFoundError():
            name = "NotFound"
        case BusyError():
            name = "Busy"
        case RefusedError():
            name = "Refused"
        case BackupdError():
            name = "Failed"
        case _:
            _log.error(
                "control call failed", message=Message.DEFECT, method=method, ERROR_CODE="internal", exc_info=fault
            )
            fault = BackupdError(
                f"{method} failed because of a defect in the daemon",
                hint="the journal has the details: journalctl -u nanumpay-backupd -n 100; please report them",
                code="internal",
            )
            name = "Failed"
    return f"{interface}.{name}", {"fault": fault_of(fault)}


def fault_of(fault: BackupdError) -> dict[str, Any]:
    """Return a fault as the interface's type Fault."""
    return {
        "code": fault.code,
        "message": redact(fault.message),
        "hint": redact(fault.hint),
        "retryable": fault.retryable,
    }
