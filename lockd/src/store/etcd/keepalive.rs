//! The keepalives of all leases, on one stream.
//!
//! A stream carries 29 k keepalives a second to a leader and 2.5 k to a follower, streams of
//! one keepalive each 2.6 k and 1.8 k. etcd answers a stream in order. A link whose oldest
//! keepalive is not answered in time is left, and whatever was on it is sent again elsewhere.
//!
//! A caller counts its lease from before its call. So an answer counts for those only who
//! called before its request was sent: who comes later is sent a request of their own.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use etcd_client::{LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{
    endpoints::{CALL, Endpoints, Pauses},
    fault::{Fault, classify},
    roster::MemberId,
};
use crate::store::{LeaseId, StoreError};

/// Keepalives that wait to be taken up. Beyond that callers wait.
const QUEUE: usize = 4096;

/// Keepalives on a link: as many as `etcd-client`'s channel takes, so that sending one never
/// waits.
const IN_FLIGHT: usize = 100;

/// How long a keepalive may stay without an answer. A follower passes it on to the leader; one
/// that was passed on to a lost leader may come to nothing. So it is sent again, on another
/// stream, several times within the one or two seconds that an election takes. Measured over
/// killed and frozen members: 1 s made gaps of up to 3.07 s, this up to 2.63 s.
const REPLY: Duration = Duration::from_millis(500);

type Reply = oneshot::Sender<Result<(), StoreError>>;

/// The way to the stream.
#[derive(Debug)]
pub(super) struct Keepalives {
    asked: mpsc::Sender<(LeaseId, Reply)>,
}

impl Keepalives {
    /// The way in, and the loop that has to run for it.
    pub(super) fn new(endpoints: Arc<Endpoints>) -> (Self, impl Future<Output = ()> + Send) {
        let (asked, arriving) = mpsc::channel(QUEUE);
        (Self { asked }, run(endpoints, arriving))
    }

    pub(super) async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        let unavailable = |text: &str| StoreError::Unavailable(text.to_owned());
        let (reply, answer) = oneshot::channel();
        let renewed = timeout(CALL, async {
            let stopped = || unavailable("this replica is shutting down");
            self.asked.send((lease, reply)).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        });
        renewed.await.unwrap_or_else(|_| Err(unavailable("no etcd member renews leases")))
    }
}

/// Callers of one lease that one request is for.
type Callers = (LeaseId, Vec<Reply>);

/// Keepalives that are not on a link yet: one request a lease, however many callers.
#[derive(Default)]
struct Waiting {
    order: VecDeque<LeaseId>,
    callers: HashMap<LeaseId, Vec<Reply>>,
}

impl Waiting {
    fn push(&mut self, (lease, replies): Callers) {
        let callers = self.callers.entry(lease).or_insert_with(|| {
            self.order.push_back(lease);
            Vec::new()
        });
        callers.extend(replies);
    }

    /// The next one that somebody still waits for.
    fn pop(&mut self) -> Option<Callers> {
        while let Some(lease) = self.order.pop_front() {
            let mut callers = self.callers.remove(&lease).unwrap_or_default();
            callers.retain(|reply| !reply.is_closed());
            if !callers.is_empty() {
                return Some((lease, callers));
            }
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

struct Link {
    member: MemberId,
    keeper: LeaseKeeper,
    stream: LeaseKeepAliveStream,
    sent: VecDeque<(Instant, Callers)>,
}

async fn run(endpoints: Arc<Endpoints>, mut arriving: mpsc::Receiver<(LeaseId, Reply)>) {
    let mut waiting = Waiting::default();
    let mut link = None;
    let mut pauses = Pauses::new(&endpoints);
    let mut batch = Vec::new();
    loop {
        if waiting.is_empty() && link.is_none() {
            match arriving.recv().await {
                Some((lease, reply)) => waiting.push((lease, vec![reply])),
                None => return,
            }
        }
        let Some(open) = &mut link else {
            let Some(first) = waiting.pop() else { continue };
            match open_link(&endpoints, first).await {
                Ok(opened) => {
                    link = opened;
                    pauses = Pauses::new(&endpoints);
                }
                Err(first) => {
                    waiting.push(first);
                    pauses.after_failure().await;
                }
            }
            continue;
        };
        let lost = open.send(&mut waiting).await || {
            let due = open.sent.front().map(|(at, _)| *at + REPLY);
            // Each arm is cancel safe: a message, a channel's recv, a timer.
            tokio::select! {
                message = open.stream.message() => open.take(message),
                count = arriving.recv_many(&mut batch, QUEUE), if waiting.is_empty() => {
                    if count == 0 {
                        return;
                    }
                    batch.drain(..).for_each(|(lease, reply)| waiting.push((lease, vec![reply])));
                    false
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => true,
                () = endpoints.silent(open.member), if due.is_some() => true,
            }
        };
        if lost && let Some(lost) = link.take() {
            tracing::warn!("the keepalives' stream broke: opening it anew");
            endpoints.leave(lost.member);
            lost.sent.into_iter().for_each(|(_, callers)| waiting.push(callers));
        }
    }
}

/// Opens a link by a first keepalive. `None` where the lease is gone: the callers know, but
/// `etcd-client` gives no link for that. `Err` gives the callers back.
async fn open_link(
    endpoints: &Endpoints,
    (lease, callers): Callers,
) -> Result<Option<Link>, Callers> {
    let (member, mut client) = match endpoints.client().await {
        Ok(found) => found,
        Err(Fault::Refused(error)) => {
            tell(callers, &Err(error));
            return Ok(None);
        }
        Err(Fault::NotSent(_) | Fault::Unknown(_)) => return Err((lease, callers)),
    };
    let fault = match timeout(REPLY, client.lease_keep_alive(lease.0)).await {
        Ok(Ok((keeper, stream))) => {
            endpoints.answered(member);
            tell(callers, &Ok(()));
            let sent = VecDeque::new();
            return Ok(Some(Link { member, keeper, stream, sent }));
        }
        Ok(Err(error)) => classify(&error),
        Err(_) => Fault::Unknown("no answer".to_owned()),
    };
    if let Fault::Refused(error) = fault {
        tell(callers, &Err(error));
        return Ok(None);
    }
    endpoints.leave(member);
    Err((lease, callers))
}

impl Link {
    /// Sends what waits, as far as there is room. `true` when the link is lost.
    async fn send(&mut self, waiting: &mut Waiting) -> bool {
        while self.sent.len() < IN_FLIGHT
            && let Some((lease, callers)) = waiting.pop()
        {
            // The stream carries any lease; a keeper only remembers which one it is for.
            self.keeper.id = lease.0;
            self.sent.push_back((Instant::now(), (lease, callers)));
            if self.keeper.keep_alive().await.is_err() {
                return true;
            }
        }
        false
    }

    /// Takes the answer to the oldest keepalive. `true` when the link is lost.
    fn take(
        &mut self,
        message: Result<Option<LeaseKeepAliveResponse>, etcd_client::Error>,
    ) -> bool {
        let Ok(Some(answer)) = message else { return true };
        let answers = |(_, (lease, _)): &(Instant, Callers)| lease.0 == answer.id();
        // Answers come in order: another one's is not to be understood, so the link ends.
        if !self.sent.front().is_some_and(answers) {
            return true;
        }
        if let Some((_, (_, callers))) = self.sent.pop_front() {
            // Of a lease that is gone etcd says that it has no TTL.
            let renewed = if answer.ttl() > 0 { Ok(()) } else { Err(StoreError::LeaseNotFound) };
            tell(callers, &renewed);
        }
        false
    }
}

fn tell(callers: Vec<Reply>, renewed: &Result<(), StoreError>) {
    // Whoever asked may have gone.
    callers.into_iter().for_each(|caller| drop(caller.send(renewed.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn callers_of_one_lease_share_a_request_and_those_who_have_gone_get_none() {
        let mut waiting = Waiting::default();
        let ask = |waiting: &mut Waiting, lease| {
            let (reply, answer) = oneshot::channel();
            waiting.push((LeaseId(lease), vec![reply]));
            answer
        };
        let (first, gone) = (ask(&mut waiting, 1), ask(&mut waiting, 2));
        let second = ask(&mut waiting, 1);
        drop(gone);
        let (lease, callers) = waiting.pop().unwrap();
        assert_eq!((lease, callers.len()), (LeaseId(1), 2));
        tell(callers, &Ok(()));
        assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
        assert!(waiting.pop().is_none() && waiting.is_empty());
    }
}
