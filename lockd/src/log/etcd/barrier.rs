//! Read barriers: one read for all that were asked for before it was sent.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};

use super::{
    endpoints::Pauses,
    fault::{EtcdRefusal, Fault},
    item::Item,
    newest::{Unread, newest},
    numbers::Numbers,
    replica::Replica,
    waits::DelayedItem,
};
use crate::log::LogError;

/// Reads under way at once. With more, those that arrive share the next one.
const AT_ONCE: usize = 4;

/// Barriers that no read was sent for yet.
#[derive(Default)]
pub(super) struct BarrierQueue {
    numbers: Mutex<Numbers>,
    more: Notify,
}

impl BarrierQueue {
    pub(super) fn push(&self, number: u64) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        self.more.notify_one();
    }

    fn take(&self) -> Numbers {
        std::mem::take(&mut *self.numbers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads for barriers until the log ends.
pub(super) async fn run(
    replica: Arc<Replica>,
    asked: Arc<BarrierQueue>,
    waits: mpsc::Sender<DelayedItem>,
) {
    let mut reads = FuturesUnordered::new();
    loop {
        // Both arms are cancel safe: a notice that is not taken stays.
        tokio::select! {
            () = asked.more.notified(), if reads.len() < AT_ONCE => {
                let numbers = asked.take();
                if !numbers.is_empty() {
                    reads.push(read(&replica, numbers));
                }
            }
            Some(read) = reads.next() => match read {
                Ok(wait) => {
                    if waits.send(wait).await.is_err() {
                        return;
                    }
                }
                Err(error) => return replica.fail(error).await,
            }
        }
    }
}

/// Reads until there is an answer.
async fn read(replica: &Replica, numbers: Numbers) -> Result<DelayedItem, LogError> {
    let mut pauses = Pauses::new(&replica.endpoints);
    loop {
        let sent = replica.clock.now();
        match newest(replica, replica.endpoints.after(0)).await {
            Ok(revision) => {
                return Ok(DelayedItem { revision, item: Item::Barrier { numbers, sent } });
            }
            Err(Unread::Broken(error)) => return Err(error),
            Err(Unread::Fault(Fault::NotSent(why) | Fault::Unknown(why))) => {
                pauses.after_failure(&why).await;
            }
            Err(Unread::Fault(Fault::Refused(refusal))) => refused(&mut pauses, refusal).await,
        }
    }
}

/// A read is refused where permissions were taken away. That may be mended while lockd runs.
async fn refused(pauses: &mut Pauses, refusal: EtcdRefusal) {
    pauses.after_failure(&LogError::from(refusal).to_string()).await;
}
