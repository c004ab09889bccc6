//! A client of single calls, each of which goes to another replica.

use std::{sync::Arc, time::Duration};

use lockd_proto::{FencingToken, RequestId, SessionId, clock::Instant, safety_margin};
use tokio::sync::mpsc;

use super::{Tester, lock, millis, spawn, world::Node};
use crate::{
    core::{
        Handle,
        answer::AcquireReply,
        ask::{Acquire, Call, Credential},
        error::Error,
    },
    record::{Client, Info, Mode, Open, Position, Wait},
};

const LOCK: &str = "calls";

/// How long a client tries to open a session.
const OPENING: Duration = Duration::from_secs(4);

/// When a call without an answer is made again.
const AGAIN: Duration = Duration::from_millis(1500);

/// An answer to a call, and when that was sent.
enum Heard {
    Lease(Instant, Result<Duration, Error>),
    Acquire(RequestId, Result<AcquireReply, Error>),
    Released(RequestId),
}

#[derive(Clone, Copy)]
enum Step {
    Rest,
    Ask,
    Hold(Position),
    Release(Position),
}

/// One session.
struct Calling<'a> {
    tester: &'a mut Tester,
    by: Credential,
    heard: mpsc::Receiver<Heard>,
    answers: mpsc::Sender<Heard>,
    opened: bool,
    target: usize,
    next_keepalive: Instant,
    request: RequestId,
    step: Step,
    /// When the step goes on.
    due: Instant,
}

/// The session is over for its client.
struct Over;

/// Lives in one session after the other.
pub(super) async fn live(mut tester: Tester) {
    loop {
        let session = SessionId::from_bytes(tester.dice.bytes());
        let since = tester.clock.now();
        tester.beliefs.begins(tester.index, Some(session));
        let (answers, heard) = mpsc::channel(1024);
        let mut calling = Calling {
            by: Credential { session, secret_hash: [7; 32], stream: 0 },
            heard,
            answers,
            opened: false,
            target: tester.dice.below(tester.slots.len()),
            next_keepalive: since,
            request: RequestId::from_bytes(tester.dice.bytes()),
            step: Step::Rest,
            due: since,
            tester: &mut tester,
        };
        while calling.step(since).await.is_ok() {}
        tester.beliefs.begins(tester.index, None);
        tester.rest(0.1, 0.4).await;
    }
}

impl Calling<'_> {
    fn is_lapsed(&self) -> bool {
        self.opened && !self.tester.beliefs.is_safe(self.tester.index)
    }

    /// Makes a call at the next replica.
    fn call<F>(&mut self, call: impl FnOnce(Handle) -> F + Send + 'static)
    where
        F: Future<Output = Heard> + Send,
    {
        self.target = (self.target + 1) % self.tester.slots.len();
        let (client, replica) = (Node::Client(self.tester.index), Node::Replica(self.target));
        let (world, slots) = (self.tester.world.clone(), self.tester.slots.clone());
        let (target, answers) = (self.target, self.answers.clone());
        spawn(async move {
            if !world.passes(client, replica).await {
                return;
            }
            let Some(core) = slots[target].lock().clone() else { return };
            let heard = call(core).await;
            if world.passes(replica, client).await {
                drop(answers.send(heard).await);
            }
        });
    }

    async fn step(&mut self, since: Instant) -> Result<(), Over> {
        let clock = self.tester.clock.clone();
        let now = clock.now();
        if self.is_lapsed() || (!self.opened && now > since + OPENING) {
            return Err(Over);
        }
        self.keep_time(now);
        let heard = tokio::select! {
            biased;
            heard = self.heard.recv() => heard,
            () = clock.sleep_until(now + self.tester.ttl / 20) => return Ok(()),
        };
        if self.is_lapsed() {
            return Err(Over);
        }
        match heard {
            Some(Heard::Lease(sent, Ok(ttl))) => {
                let until = sent + ttl.saturating_sub(safety_margin(ttl));
                self.tester.beliefs.renewed(self.tester.index, until);
                self.opened |= self.tester.beliefs.is_safe(self.tester.index);
            }
            Some(Heard::Lease(_, Err(Error::SessionNotFound(_)))) if self.opened => {
                return Err(Over);
            }
            Some(Heard::Lease(_, Err(_))) => {
                let soon = clock.now() + self.tester.dice.seconds(0.2, 0.5);
                self.next_keepalive = self.next_keepalive.min(soon);
            }
            Some(Heard::Acquire(request, reply)) if request == self.request => self.acquired(reply),
            Some(Heard::Released(request)) if request == self.request => {
                self.request = RequestId::from_bytes(self.tester.dice.bytes());
                self.step = Step::Rest;
                self.due = clock.now() + self.tester.dice.seconds(0.1, 1.0);
            }
            Some(Heard::Acquire(..) | Heard::Released(_)) | None => {}
        }
        Ok(())
    }

    fn acquired(&mut self, reply: Result<AcquireReply, Error>) {
        let now = self.tester.clock.now();
        match (self.step, reply) {
            (Step::Ask, Ok(AcquireReply::Granted { token, .. })) => {
                self.tester.beliefs.holds(self.tester.index, LOCK);
                self.step = Step::Hold(token);
                self.due = now + self.tester.dice.seconds(0.2, 2.0);
            }
            (Step::Ask, _) => self.due = now + self.tester.dice.seconds(0.3, 1.0),
            (Step::Rest | Step::Hold(_) | Step::Release(_), _) => {}
        }
    }

    fn keep_time(&mut self, now: Instant) {
        let by = self.by;
        if now >= self.next_keepalive {
            if self.opened {
                self.next_keepalive = now + self.tester.ttl / 5;
                self.call(move |core| async move {
                    let ttl = core.call(|reply| Call::KeepAlive(by, reply)).await;
                    Heard::Lease(now, ttl.map(Duration::from_millis))
                });
            } else {
                self.next_keepalive = now + Duration::from_secs(1);
                let ttl_ms = millis(self.tester.ttl);
                let (secret_hash, client) = (by.secret_hash, Client::default());
                let open = Open { session: by.session, stream: 0, secret_hash, ttl_ms, client };
                self.call(move |core| async move {
                    let opened = core.call(|reply| Call::Open(Box::new(open), reply)).await;
                    Heard::Lease(now, opened.map(|opened| opened.ttl))
                });
            }
        }
        if self.opened && now >= self.due {
            self.go_on(now);
        }
    }

    fn go_on(&mut self, now: Instant) {
        let (by, request) = (self.by, self.request);
        self.due = now + AGAIN;
        match self.step {
            Step::Rest | Step::Ask => {
                self.step = Step::Ask;
                let (locks, mode, wait) = (vec![lock(LOCK)], Mode::Exclusive, Wait::Not);
                let info = Info::default();
                let acquire =
                    Box::new(Acquire { request, locks, mode, wait, lock_delay_ms: 0, info });
                self.call(move |core| async move {
                    let reply = core.acquire((by, Some(lock(LOCK))), acquire).await;
                    Heard::Acquire(request, reply)
                });
            }
            Step::Hold(token) | Step::Release(token) => {
                self.tester.beliefs.releases(self.tester.index);
                self.step = Step::Release(token);
                let named = (lock(LOCK), FencingToken::new(token.0).unwrap());
                let answers = Arc::new(self.answers.clone());
                self.call(move |core| async move {
                    let released =
                        core.call(|reply| Call::Release(by, request, named, reply)).await;
                    match released {
                        Ok(_) | Err(Error::TokenMismatch { .. } | Error::LockNotFound(_)) => {
                            Heard::Released(request)
                        }
                        Err(_) => {
                            drop(answers);
                            std::future::pending().await
                        }
                    }
                });
            }
        }
    }
}
