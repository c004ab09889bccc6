//! Questions, and what else has to know that the state is recent: they wait behind one read barrier.
//!
//! What arrives while a barrier is under way waits for the next one: it may rest on something that is
//! newer than what that one will show.

use std::{collections::HashMap, time::Duration};

use lockd_proto::clock::Instant;

use super::{
    Core,
    answer::{Deadlock, Explained, Found, Listed},
    ask::{Begin, Call, Look},
    error::Error,
    tickets::{CallTicket, Ticket},
};
use crate::{
    log::Log,
    record::{Enqueue, LockId, Operation},
    state::{Page, QueuePage, Refusal},
};

/// Questions that may wait for a barrier; beyond, they are refused.
const MAX_WAITING: usize = 16 * 1024;

/// What waits until the state is known to be recent.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A try that the state says is in vain.
    Try(Box<Enqueue>, Ticket),
    /// A stream whose session is not known here.
    Begin(Box<Begin>),
    /// A call whose session is not known here.
    Call(Box<Call>),
    /// A question.
    Look(Box<Look>),
}

/// What waits for barriers.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// What arrived since the last barrier was asked for.
    next: Vec<Waiting>,
    /// What waits for a barrier, by its number.
    behind: HashMap<u64, Vec<Waiting>>,
    number: u64,
    /// Whether what is handled now waited for a barrier.
    passed: bool,
}

impl Looks {
    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.next.push(waiting);
    }

    /// Whether what is handled has waited for a barrier: what is not known now is not there.
    pub(super) fn is_passed(&self) -> bool {
        self.passed
    }

    /// Asks for a barrier, if something waits for one and none is under way.
    pub(super) fn ask_barrier(&mut self, log: &mut impl Log) {
        if self.next.is_empty() {
            return;
        }
        self.number += 1;
        self.behind.insert(self.number, std::mem::take(&mut self.next));
        log.barrier(self.number);
    }

    fn take_all(&mut self) -> Vec<Waiting> {
        let behind = std::mem::take(&mut self.behind);
        behind.into_values().flatten().chain(std::mem::take(&mut self.next)).collect()
    }

    fn len(&self) -> usize {
        self.next.len() + self.behind.values().map(Vec::len).sum::<usize>()
    }
}

impl<L: Log> Core<L> {
    pub(super) fn look(&mut self, look: Look) {
        match look {
            Look::Watch(key, scope, watched) => match self.not_ready() {
                Some(error) => watched.refuse(error),
                None => self.observers.add(key, scope, &watched),
            },
            Look::Sizes(locks, reply) => {
                let size = |lock: LockId| {
                    let (held, waiting) = self.state.size(&lock);
                    (lock, held, waiting)
                };
                // A scrape that is gone needs no answer.
                drop(reply.send(locks.into_iter().map(size).collect()));
            }
            Look::Get(..) | Look::List { .. } | Look::Explain(..) => {
                let full = || {
                    Error::Log(crate::log::LogError::Unavailable(
                        "it does not keep up with \
                    what it is asked"
                            .to_owned(),
                    ))
                };
                match self.not_fresh().or_else(|| (self.looks.len() >= MAX_WAITING).then(full)) {
                    Some(error) => refuse(look, &error),
                    None if self.log.profile().is_shared => {
                        self.looks.wait(Waiting::Look(Box::new(look)));
                    }
                    None => self.answer_look(look),
                }
            }
        }
    }

    pub(super) fn passed_barrier(&mut self, number: u64) {
        let Some(waiting) = self.looks.behind.remove(&number) else { return };
        self.looks.passed = true;
        for waiting in waiting {
            match waiting {
                Waiting::Try(enqueue, ticket) => self.try_again(enqueue, ticket),
                Waiting::Begin(begin) => self.begin_stream(*begin),
                Waiting::Call(call) => self.call(*call),
                Waiting::Look(look) => self.answer_look(*look),
            }
        }
        self.looks.passed = false;
    }

    /// A try whose lock was taken. It costs no write if that is still so.
    fn try_again(&mut self, enqueue: Box<Enqueue>, ticket: Ticket) {
        if !self.is_hopeless(&enqueue) {
            return self.propose(Operation::Enqueue(enqueue), ticket);
        }
        let taken = enqueue.locks.iter().find(|lock| !self.state.would_grant(lock, enqueue.mode));
        let ahead = taken.and_then(|lock| self.state.ahead(lock)).map(Box::new);
        let refusal = Refusal::Busy(ahead);
        match ticket {
            Ticket::Stream(stream, request) => {
                self.streams.end_request(stream);
                self.answer_refused((stream, enqueue.session), request, refusal);
            }
            Ticket::Call(call) => {
                if let CallTicket::Acquire(reply, by) = *call {
                    self.refused_call(reply, by, refusal);
                }
            }
            Ticket::None | Ticket::Begin(..) | Ticket::Close(_) | Ticket::Unheard(..) => {}
        }
    }

    /// Answers a question from the state. The answer leaves when what it shows is durable.
    fn answer_look(&mut self, look: Look) {
        match look {
            Look::Get(lock, page, reply) => {
                let found = self.found(&lock, page).ok_or(Error::LockNotFound(lock));
                self.reply(reply, found);
            }
            Look::List { prefix, after, limit, page, reply } => {
                let listed = self.listed(&prefix, after.as_deref(), limit, page);
                self.reply(reply, Ok(listed));
            }
            Look::Explain(lock, page, reply) => {
                let explained = self.explained(&lock, page);
                self.reply(reply, Ok(explained));
            }
            Look::Sizes(..) | Look::Watch(..) => {}
        }
    }

    fn found(&self, lock: &LockId, page: Page) -> Option<Found> {
        let queue = self.state.queue_page(lock, page)?;
        let leases = queue.entries.iter().take(queue.held);
        let leases = leases.map(|it| self.leases.left(it.entry.session, self.now)).collect();
        Some(Found { queue, leases, at: self.state.position() })
    }

    fn listed(&self, prefix: &str, after: Option<&str>, limit: usize, page: Page) -> Listed {
        let mut queues = self.state.list(prefix, after, limit, page);
        let last = queues.last().map(|it: &QueuePage| it.lock.clone());
        let next = last.map(|last| {
            let after: &str = std::borrow::Borrow::borrow(&last);
            let none = Page { entries: 0, ..page };
            !self.state.list(prefix, Some(after), 1, none).is_empty()
        });
        queues.truncate(limit);
        Listed { more: next.unwrap_or(false), queues, at: self.state.position() }
    }

    fn explained(&self, lock: &LockId, page: Page) -> Explained {
        let (held_since, handoff) = self.state.story(lock);
        let age = |at: Instant| self.now.saturating_duration_since(at);
        let ended = self.deadlocks.ended(lock).map(|(at, deadlock)| {
            let ended: Option<Duration> = Some(age(*at));
            Deadlock { ended, ..deadlock.clone() }
        });
        Explained {
            found: self.found(lock, page),
            held_for: self.since(held_since),
            handoff: handoff.map(|it| {
                let age = self.since(it.at).unwrap_or_default();
                (it, age)
            }),
            deadlocks: self.deadlocks.standing(lock).cloned().into_iter().chain(ended).collect(),
            result: self.state.result(lock).cloned(),
            at: self.state.position(),
        }
    }

    /// Ends everything that waits for a barrier.
    pub(super) fn fail_looks(&mut self, why: &Error) {
        for waiting in self.looks.take_all() {
            match waiting {
                Waiting::Try(_, ticket) => self.fail(ticket, why.clone()),
                Waiting::Begin(begin) => drop(begin.reply.send(Err(why.clone()))),
                Waiting::Call(call) => call.refuse(why),
                Waiting::Look(look) => refuse(*look, why),
            }
        }
    }
}

fn refuse(look: Look, why: &Error) {
    match look {
        Look::Get(_, _, reply) => drop(reply.send(Err(why.clone()))),
        Look::List { reply, .. } => drop(reply.send(Err(why.clone()))),
        Look::Explain(_, _, reply) => drop(reply.send(Err(why.clone()))),
        Look::Watch(_, _, watched) => watched.refuse(why.clone()),
        Look::Sizes(..) => {}
    }
}
