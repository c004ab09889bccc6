//! Following one lock over any number of streams.

use lockd_proto::retry::{Policy, Retry};

use crate::{
    client::Client,
    error::Error,
    inspect::{LockEvent, LockWatch},
    queue::LockInfo,
};

/// What is known of a lock.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The lock as it is; `None` if it has neither a holder nor a waiter.
    Lock(Option<LockInfo>),
    /// The state is no longer known. The next update has it again.
    Unknown(Error),
}

/// Follows one lock: its state, then every change, and again after an interruption.
#[derive(Debug)]
pub(crate) struct Watcher {
    client: Client,
    name: String,
    watch: Option<LockWatch>,
    /// Whether the state of this watch's beginning has been seen.
    known: Known,
    retry: Retry,
}

#[derive(Debug)]
enum Known {
    Nothing,
    /// The lock, before the end of the watch's first part.
    Snapshot(Option<LockInfo>),
    All,
}

impl Watcher {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self {
            client,
            name,
            watch: None,
            known: Known::Nothing,
            retry: Retry::new(Policy::default()),
        }
    }

    /// What is known next. Cancel safe.
    pub(crate) async fn next(&mut self) -> Seen {
        loop {
            if let Err(error) = self.connect().await {
                return self.interrupted(error);
            }
            let event = match &mut self.watch {
                Some(watch) => watch.next().await,
                None => continue,
            };
            match event {
                Some(Ok(event)) => {
                    if let Some(lock) = self.seen(event) {
                        return Seen::Lock(lock);
                    }
                }
                Some(Err(error)) => return self.interrupted(error),
                // The watch was made without a context, so this is after an error.
                None => self.watch = None,
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Error> {
        if self.watch.is_some() {
            return Ok(());
        }
        if let Known::Nothing = self.known {
            // The first attempt comes at once; later ones wait their turn.
        } else if let Some(pause) = self.retry.next_delay() {
            let clock = self.client.clock();
            clock.sleep_until(clock.now() + pause).await;
        }
        self.watch = Some(self.client.watch_lock(self.name.as_str()).await?);
        self.known = Known::Snapshot(None);
        Ok(())
    }

    fn seen(&mut self, event: LockEvent) -> Option<Option<LockInfo>> {
        match (&mut self.known, event) {
            (Known::Snapshot(lock), LockEvent::Changed(changed)) => {
                *lock = Some(changed);
                None
            }
            (Known::Snapshot(lock), LockEvent::SnapshotEnd) => {
                let lock = lock.take();
                self.known = Known::All;
                self.retry.reset();
                Some(lock)
            }
            (_, LockEvent::Changed(changed)) => Some(Some(changed)),
            (_, LockEvent::Freed { .. }) => Some(None),
            (_, LockEvent::SnapshotEnd) => None,
        }
    }

    fn interrupted(&mut self, error: Error) -> Seen {
        self.watch = None;
        self.known = Known::All;
        Seen::Unknown(error)
    }
}
