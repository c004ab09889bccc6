"""A client of lockd over its unary calls, made to be read: docs/api.md has the reasons.

    with Client("127.0.0.1:7420") as client, client.lock("orders/42", wait=3) as held:
        held.check()                         # raises LockLost: call it before what matters
        store.write(row, fence=held.token)   # and let the resource refuse a lower token
"""

import os
import pkgutil
import random
import threading
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from math import inf
from time import monotonic, sleep

import grpc
from google.rpc import error_details_pb2, status_pb2

# The generated stubs are the package lockd.v1, which lies elsewhere on the path.
__path__ = pkgutil.extend_path([], __name__)

from lockd.v1 import identity_pb2, lock_pb2, lock_pb2_grpc, session_pb2, session_pb2_grpc

ANSWER = 10.0  # seconds for an answer, beside the time that it is to wait in a queue
CANCELLED = lock_pb2.REFUSAL_REASON_CANCELLED
UNANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# Left alone, gRPC may rest for two minutes before it dials again: longer than a lease.
CHANNEL = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]


class LockdError(Exception):
    """A call failed. `reason` is stable: that of its ErrorInfo, else the name of its gRPC code."""

    def __init__(self, reason, message):
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class NotGranted(LockdError):
    """Refused, and nothing is left in the queue: BUSY, WAIT_EXPIRED, FORCED, DEADLOCK."""


class LockLost(LockdError):
    """Somebody else may hold the lock by now: EXPIRED or SESSION_NOT_FOUND."""


def failure(error):
    info = error_details_pb2.ErrorInfo(reason=error.code().name)
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    for detail in status_pb2.Status.FromString(details).details:
        detail.Unpack(info)  # Does nothing to a detail of another type.
    kind = LockLost if info.reason == "SESSION_NOT_FOUND" else LockdError
    return kind(info.reason, error.details())


def retry(call, until, pause=0.05):
    """Calls until there is an answer, or it is `until()`: for what may be done more than once."""
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() not in UNANSWERED or monotonic() + pause >= until():
                raise failure(error) from error
        sleep(pause * random.uniform(0.5, 1.0))  # Who failed together shall not come together.
        pause = min(2 * pause, 1.0)


class Session:
    """A lease, and the thread that keeps it alive. All locks of a client hang on it."""

    def __init__(self, channel, ttl):
        self._stub, self._mutex = session_pb2_grpc.SessionServiceStub(channel), threading.Lock()
        self.stopped, self.safe_until = threading.Event(), inf
        self.loss, until = LockLost("EXPIRED", "the lease was not renewed"), monotonic() + ANSWER
        client = identity_pb2.ClientInfo(name="python", host=os.uname().nodename, pid=os.getpid())
        request = session_pb2.OpenSessionRequest(client=client)
        request.ttl.FromTimedelta(timedelta(seconds=ttl))
        # Safe to repeat: a session whose opening went unheard ends with its own TTL.
        opened = retry(lambda: self._renew(self._stub.OpenSession, request, ANSWER), lambda: until)
        self.credential = opened.session
        threading.Thread(target=self._keep_alive, name="lockd-keepalive", daemon=True).start()

    def _renew(self, call, request, timeout):
        # Counted from when it is sent: the server counts from when it arrives, which is later. The
        # margin is for clocks of different rates, and for the time that it takes to stop.
        sent = monotonic()
        answer = call(request, timeout=timeout)
        with self._mutex:
            if monotonic() < self.safe_until:  # What check() has called lost stays lost.
                self.sent, self.ttl = sent, answer.ttl.ToTimedelta().total_seconds()
                self.safe_until = sent + self.ttl - (0.02 * self.ttl + 0.25)
        return answer

    def _keep_alive(self):
        request, pause = session_pb2.KeepAliveRequest(session=self.credential), self.ttl / 5
        while not self.stopped.wait(pause) and self.remaining():
            try:
                self._renew(self._stub.KeepAlive, request, min(max(1, self.ttl / 10), self.ttl / 2))
                pause = max(0, self.sent + self.ttl / 5 - monotonic())
            except grpc.RpcError as error:
                # No loss, unless it says so: the lease goes on to its safe_until, and so do tries.
                pause = self.ttl / 20
                if isinstance(told := failure(error), LockLost):
                    self.loss, self.safe_until = told, 0

    def remaining(self):
        with self._mutex:
            return max(0, self.safe_until - monotonic())

    def settle(self, call, request):
        """Makes a call that may be repeated, and that the end of the lease makes needless."""
        request.session.CopyFrom(self.credential)
        return retry(lambda: call(request, timeout=ANSWER), lambda: self.safe_until)

    def close(self):
        self.stopped.set()
        with suppress(LockdError):  # Who can't be told will see it by the TTL.
            self.settle(self._stub.CloseSession, session_pb2.CloseSessionRequest())


class Lock(AbstractContextManager):
    """A lock that was granted. Leaving its `with` block releases it."""

    def __init__(self, stub, session, entry, token):
        self._stub, self._entry, self._released = stub, entry, False
        self.session, self.token = session, token
        self.check()  # Outside of the lease a grant is old news.

    def remaining(self):
        """For how many seconds nobody else is granted it, even if no keepalive gets through."""
        return 0 if self._released else self.session.remaining()

    def check(self):
        """Raises LockLost once somebody else may hold the lock."""
        if not self.remaining():
            raise self.session.loss

    def release(self):
        """RELEASED; or ALREADY_LOST, also where a try that went unanswered has released it."""
        self._released = True
        request = lock_pb2.ReleaseRequest(**self._entry, token=self.token)
        outcome = self.session.settle(self._stub.Release, request).outcome
        return lock_pb2.ReleaseOutcome.Name(outcome).removeprefix("RELEASE_OUTCOME_")

    def __exit__(self, *_):
        self.release()


class Client(AbstractContextManager):
    """Opens a session with its first lock, and another one after a loss. Threads may share it."""

    def __init__(self, address, namespace="default", ttl=15.0):
        self._channel, self._namespace = grpc.insecure_channel(address, CHANNEL), namespace
        self._stub = lock_pb2_grpc.LockServiceStub(self._channel)
        self._session, self._ttl, self._mutex = None, ttl, threading.Lock()

    def lock(self, name, wait=None, shared=False, permits=None):
        """Waits for ever, or `wait` seconds (0 is a try). `permits` is a pair: count, capacity."""
        entry = dict(request_id=os.urandom(16), namespace=self._namespace, name=name)
        permits = permits and lock_pb2.Permits(count=permits[0], capacity=permits[1])
        mode = lock_pb2.Mode(shared=lock_pb2.Shared() if shared else None, permits=permits)
        acquire = lock_pb2.Acquire(**entry, mode=mode)
        deadline = inf if wait is None else monotonic() + wait
        with self._mutex:
            if not (self._session and self._session.remaining()):
                self._session = Session(self._channel, self._ttl)
            session = self._session
        try:
            # CANCELLED is the server clearing up after a try that broke off, and not our wish: the
            # request is over, and another one begins.
            while (answer := retry(lambda: self._try(session, acquire, deadline),
                                   lambda: deadline)).refusal.reason == CANCELLED:
                acquire.request_id = entry["request_id"] = os.urandom(16)
            if answer.HasField("grant"):
                return Lock(self._stub, session, entry, answer.grant.token)
        except BaseException:  # KeyboardInterrupt too: a grant would now hold the lock for nobody.
            with suppress(LockdError):
                session.settle(self._stub.Cancel, lock_pb2.CancelRequest(**entry))
            raise
        reason = lock_pb2.RefusalReason.Name(answer.refusal.reason).removeprefix("REFUSAL_REASON_")
        raise NotGranted(reason, f"{name}: {answer.refusal.ahead} ahead. {answer.refusal.detail}")

    def _try(self, session, acquire, deadline):
        request = lock_pb2.AcquireRequest(session=session.credential, acquire=acquire)
        left = max(0, deadline - monotonic())
        if left < inf:
            request.acquire.max_wait.FromTimedelta(timedelta(seconds=left))
        call = self._stub.Acquire.future(request, timeout=left + ANSWER if left < inf else None)
        try:
            while session.remaining():
                with suppress(grpc.FutureTimeoutError):
                    return call.result(session.ttl / 5)
            raise session.loss
        finally:
            call.cancel()  # Who goes away leaves the queue. Nothing happens to an answered call.

    def __exit__(self, *_):
        if self._session:
            self._session.close()
        self._channel.close()
