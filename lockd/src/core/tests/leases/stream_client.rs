//! A client with a stream, which resumes its session at another replica when answers are late.

use std::{collections::HashMap, future::poll_fn, sync::Arc, time::Duration};

use lockd_proto::{RequestId, SessionId, clock::Instant, safety_margin};
use tokio::sync::mpsc;

use super::{
    Slots, Tester, lock, millis, spawn,
    world::{Node, World},
};
use crate::{
    core::{
        answer::{Answer, Attached},
        ask::{Acquire, Ask, Credential, Hello},
        error::Error,
    },
    record::{Client, Info, Mode, Open, Position, Wait},
};

const LOCK: &str = "streams";

/// How long a client tries to open a session.
const OPENING: Duration = Duration::from_secs(4);

/// What comes down a stream.
enum Down {
    Answers(Vec<Answer>),
    /// It has ended, or never began.
    Over(Option<Error>),
}

struct Link {
    up: mpsc::Sender<Vec<Ask>>,
    down: mpsc::Receiver<Down>,
    since: Instant,
    attached: bool,
    /// When the keepalives were sent that have no answer yet.
    sent: HashMap<u64, Instant>,
    next_keepalive: Instant,
}

#[derive(Clone, Copy)]
enum Want {
    Nothing { until: Instant },
    Asked(RequestId),
    Held(RequestId, Instant),
}

impl Want {
    fn request(self) -> Option<RequestId> {
        match self {
            Self::Nothing { .. } => None,
            Self::Asked(request) | Self::Held(request, _) => Some(request),
        }
    }
}

/// One session of a client.
struct Streaming<'a> {
    tester: &'a mut Tester,
    id: SessionId,
    number: u64,
    sequence: u64,
    opened: bool,
    target: usize,
    link: Link,
    want: Want,
    /// When to try again to attach, after a refusal.
    retry: Option<Instant>,
}

/// The session is over for its client.
struct Over;

/// Lives in one session after the other.
pub(super) async fn live(mut tester: Tester) {
    loop {
        let id = SessionId::from_bytes(tester.dice.bytes());
        let since = tester.clock.now();
        tester.beliefs.begins(tester.index, Some(id));
        let target = tester.dice.below(tester.slots.len());
        let mut session = Streaming {
            link: open(&tester, id, (1, target)),
            tester: &mut tester,
            id,
            number: 1,
            sequence: 0,
            opened: false,
            target,
            want: Want::Nothing { until: since },
            retry: None,
        };
        while session.step(since).await.is_ok() {}
        tester.beliefs.begins(tester.index, None);
        tester.rest(0.1, 0.4).await;
    }
}

fn open(tester: &Tester, session: SessionId, (stream, target): (u64, usize)) -> Link {
    let ttl_ms = millis(tester.ttl);
    let (secret_hash, client) = ([7; 32], Client::default());
    let open = Open { session, stream, secret_hash, ttl_ms, client };
    connect(tester, target, Hello::Open(Box::new(open)))
}

fn connect(tester: &Tester, target: usize, hello: Hello) -> Link {
    let (up, going_up) = mpsc::channel(1024);
    let (coming_down, down) = mpsc::channel(1024);
    let since = tester.clock.now();
    let ends = (Node::Client(tester.index), target);
    let wire = wire((tester.world.clone(), tester.slots.clone()), ends, hello);
    spawn(wire.carry(going_up, coming_down));
    Link { up, down, since, attached: false, sent: HashMap::new(), next_keepalive: since }
}

/// A connection. It delivers what was sent, in order, also when its client has left it.
struct Wire {
    world: Arc<World>,
    slots: Slots,
    client: Node,
    target: usize,
    hello: Hello,
}

fn wire(
    (world, slots): (Arc<World>, Slots),
    (client, target): (Node, usize),
    hello: Hello,
) -> Wire {
    Wire { world, slots, client, target, hello }
}

impl Wire {
    async fn carry(self, mut up: mpsc::Receiver<Vec<Ask>>, down: mpsc::Sender<Down>) {
        let Self { world, slots, client, target, hello } = self;
        let replica = Node::Replica(target);
        if !world.passes(client, replica).await {
            return;
        }
        let Some(core) = slots[target].lock().clone() else { return };
        let stream = match core.attach(hello, Vec::new()).await {
            Ok(stream) => stream,
            Err(error) => {
                world.flows(replica, client).await;
                drop(down.send(Down::Over(Some(error))).await);
                return;
            }
        };
        let answers = stream.answers();
        let back = world.clone();
        spawn(async move {
            while let Some(frame) = poll_fn(|cx| answers.poll_frame(cx)).await {
                back.flows(replica, client).await;
                if down.send(Down::Answers(frame.answers)).await.is_err() {
                    return;
                }
            }
            drop(down.send(Down::Over(None)).await);
        });
        while let Some(asks) = up.recv().await {
            world.flows(client, replica).await;
            if stream.frame(asks).await.is_err() {
                return;
            }
        }
        // The replica notices the end as late as any other message.
        world.flows(client, replica).await;
    }
}

impl Streaming<'_> {
    fn now(&self) -> Instant {
        self.tester.clock.now()
    }

    fn is_lapsed(&self) -> bool {
        self.opened && !self.tester.beliefs.is_safe(self.tester.index)
    }

    /// What time brings comes before what arrives: a renewal does not revive what has expired.
    async fn step(&mut self, since: Instant) -> Result<(), Over> {
        let late = !self.opened && self.now() > since + OPENING;
        if self.is_lapsed() || late {
            return Err(Over);
        }
        self.keep_time();
        let due = self.due();
        let clock = self.tester.clock.clone();
        let down = tokio::select! {
            biased;
            down = self.link.down.recv(), if self.retry.is_none() => down.unwrap_or(Down::Over(None)),
            () = clock.sleep_until(due) => return Ok(()),
        };
        if self.is_lapsed() {
            return Err(Over);
        }
        match down {
            Down::Answers(answers) => answers.into_iter().try_for_each(|it| self.answer(it)),
            Down::Over(Some(Error::SessionNotFound(_))) => Err(Over),
            Down::Over(_) => {
                let pause = self.tester.dice.seconds(0.2, 0.5);
                self.retry = Some(self.now() + pause);
                Ok(())
            }
        }
    }

    fn due(&self) -> Instant {
        let nap = self.now() + self.tester.ttl / 20;
        self.retry.map_or(nap, |retry| retry.min(nap))
    }

    fn keep_time(&mut self) {
        let (now, timeout) = (self.now(), self.tester.reply_timeout());
        if self.retry.is_some_and(|retry| now >= retry) {
            return self.resume();
        }
        let unanswered = self.link.sent.values().any(|sent| now > *sent + timeout);
        if self.retry.is_none()
            && (unanswered || (!self.link.attached && now > self.link.since + timeout))
        {
            return self.resume();
        }
        if !self.link.attached || self.retry.is_some() {
            return;
        }
        if now >= self.link.next_keepalive {
            self.sequence += 1;
            self.link.sent.insert(self.sequence, now);
            self.link.next_keepalive = now + self.tester.ttl / 5;
            self.send(Ask::KeepAlive { sequence: self.sequence });
        }
        match self.want {
            Want::Nothing { until } if now >= until => {
                let request = RequestId::from_bytes(self.tester.dice.bytes());
                self.want = Want::Asked(request);
                self.send(acquire(request));
            }
            Want::Held(request, until) if now >= until => {
                self.tester.beliefs.releases(self.tester.index);
                self.want = Want::Nothing { until: now + self.tester.dice.seconds(0.1, 1.0) };
                self.send(Ask::Release(request));
            }
            Want::Nothing { .. } | Want::Asked(_) | Want::Held(..) => {}
        }
    }

    fn send(&self, ask: Ask) {
        // One that finds no room is late, as on any other full connection.
        drop(self.link.up.try_send(vec![ask]));
    }

    /// Goes on at the next replica.
    fn resume(&mut self) {
        self.retry = None;
        self.number += 1;
        self.target = (self.target + 1) % self.tester.slots.len();
        let (session, stream) = (self.id, self.number);
        self.link = if self.opened {
            let by = Credential { session, secret_hash: [7; 32], stream };
            let open = self.want.request().into_iter().collect();
            connect(
                self.tester,
                self.target,
                Hello::Resume { by, open, durable: Position::default() },
            )
        } else {
            open(self.tester, session, (stream, self.target))
        };
    }

    fn renewed(&mut self, sent: Instant, ttl: Duration) {
        let until = sent + ttl.saturating_sub(safety_margin(ttl));
        self.tester.beliefs.renewed(self.tester.index, until);
    }

    fn answer(&mut self, answer: Answer) -> Result<(), Over> {
        match answer {
            Answer::Attached(attached) => self.attached(&attached)?,
            Answer::KeepAliveAck { sequence, ttl } => {
                if let Some(sent) = self.link.sent.remove(&sequence) {
                    self.renewed(sent, ttl);
                }
            }
            Answer::Granted(request, _) => self.granted(request),
            Answer::Refused(request, _) | Answer::Failed(request, _) => {
                if let Want::Asked(asked) = self.want
                    && asked == request
                {
                    let pause = self.tester.dice.seconds(0.2, 0.5);
                    self.want = Want::Nothing { until: self.now() + pause };
                }
            }
            // One that it has released and does not know any more is taken out where it resumes.
            Answer::Lost(request, ..) if self.want.request() != Some(request) => {}
            Answer::Lost(..) => self.tester.beliefs.wrong(format!("{} lost a lock", self.id)),
            Answer::Ended(_) => return Err(Over),
            Answer::GoAway(_) => {
                let pause = self.tester.dice.seconds(0.0, 0.3);
                self.retry = Some(self.now() + pause);
            }
            Answer::Queued(..)
            | Answer::Released { .. }
            | Answer::Updated(_)
            | Answer::YieldRequested(..) => {}
        }
        Ok(())
    }

    fn attached(&mut self, attached: &Attached) -> Result<(), Over> {
        self.renewed(self.link.since, attached.ttl);
        if !self.tester.beliefs.is_safe(self.tester.index) {
            return Err(Over);
        }
        (self.opened, self.link.attached) = (true, true);
        let Some(request) = self.want.request() else { return Ok(()) };
        let found = attached.entries.iter().find(|(entry, ..)| *entry == request);
        match (self.want, found) {
            (Want::Asked(_), Some((.., true))) => self.granted(request),
            (Want::Asked(_), None) => self.send(acquire(request)),
            (Want::Held(..), None | Some((.., false))) => {
                self.tester.beliefs.wrong(format!("{} holds nothing after it resumed", self.id));
            }
            (Want::Nothing { .. } | Want::Asked(_) | Want::Held(..), _) => {}
        }
        Ok(())
    }

    fn granted(&mut self, request: RequestId) {
        if matches!(self.want, Want::Asked(asked) if asked == request) {
            self.tester.beliefs.holds(self.tester.index, LOCK);
            let hold = self.tester.dice.seconds(0.2, 3.0);
            self.want = Want::Held(request, self.now() + hold);
        }
    }
}

fn acquire(request: RequestId) -> Ask {
    let info = Info::default();
    let (locks, mode, wait) = (vec![lock(LOCK)], Mode::Exclusive, Wait::Forever);
    Ask::Acquire(Box::new(Acquire { request, locks, mode, wait, lock_delay_ms: 0, info }))
}
