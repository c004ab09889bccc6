//! What the tasks of one replica share.

use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use etcd_client::ResponseHeader;
use lockd_proto::clock::Clock;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    EtcdConfig,
    endpoints::Endpoints,
    history::{History, Seen, Watermark},
    item::{Item, Life},
    keys::Keys,
    view::View,
};
use crate::{
    log::{Floor, LogError},
    record::ReplicaId,
};

/// One process, over all its lives.
pub(super) struct Replica {
    pub(super) config: EtcdConfig,
    pub(super) endpoints: Endpoints,
    pub(super) keys: Keys,
    pub(super) clock: Clock,
    pub(super) watermark: Watermark,
    /// The reading of the log after which deliveries go on; `None` while it is being read.
    pub(super) reading: watch::Sender<Option<u64>>,
    pub(super) life: watch::Sender<Option<Life>>,
    /// The newest floor that was applied.
    pub(super) floor: watch::Sender<Option<Floor>>,
    /// A replica's key has gone.
    pub(super) departed: Notify,
    /// There may be more to delete than at the last floor.
    pub(super) untrimmed: Notify,
    /// Ends all tasks.
    pub(super) end: CancellationToken,
    out: mpsc::Sender<Item>,
    written: AtomicBool,
    history: OnceLock<Known>,
    view: Mutex<View>,
}

/// The history, and the revision of its key. Every record compares that: one that was written by a
/// replica that missed a new era does not land.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) history: History,
    pub(super) revision: i64,
}

/// The log's owner has gone: the task ends.
#[derive(Debug)]
pub(super) struct Gone;

impl Replica {
    pub(super) fn new(
        config: EtcdConfig,
        clock: Clock,
        end: CancellationToken,
        out: mpsc::Sender<Item>,
    ) -> Self {
        Self {
            endpoints: Endpoints::new(&config),
            keys: Keys::new(&config.prefix),
            config,
            clock,
            watermark: Watermark::default(),
            reading: watch::Sender::new(None),
            life: watch::Sender::new(None),
            floor: watch::Sender::new(None),
            departed: Notify::new(),
            untrimmed: Notify::new(),
            end,
            out,
            written: AtomicBool::new(false),
            history: OnceLock::new(),
            view: Mutex::new(View::default()),
        }
    }

    /// The history, once it was read.
    pub(super) fn known(&self) -> Option<&Known> {
        self.history.get()
    }

    pub(super) fn set_history(&self, known: Known) -> &Known {
        self.history.get_or_init(|| known)
    }

    pub(super) async fn emit(&self, item: Item) -> Result<(), Gone> {
        self.out.send(item).await.map_err(|_| Gone)
    }

    /// Ends everything, after all that was delivered before.
    pub(super) async fn fail(&self, error: LogError) {
        tracing::error!(%error, "the log has failed");
        // Without an owner there is no one to say it to.
        drop(self.emit(Item::Failed(error)).await);
        self.end.cancel();
    }

    /// Notes what the cluster says of itself, and whether that agrees with what it said `before` the
    /// call was sent.
    ///
    /// # Errors
    /// The history has gone back.
    pub(super) fn observe(
        &self,
        before: Seen,
        header: Option<&ResponseHeader>,
    ) -> Result<(), LogError> {
        let seen = Seen::of(header);
        if let Some(why) = before.contradicts(&seen) {
            return Err(LogError::Broken(format!(
                "etcd's history has gone back, as after a restore from a backup: {why}; stop all \
                 replicas, and start them with --accept-restored and a new name if the cluster is the one to \
                 go on with"
            )));
        }
        self.watermark.raise(seen);
        Ok(())
    }

    /// What is noted for the log's owner, and the way to it.
    pub(super) fn owner(&self) -> (&Mutex<View>, &mpsc::Sender<Item>) {
        (&self.view, &self.out)
    }

    /// Where everything is. Not to be held over an await.
    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name that this replica writes under.
    pub(super) fn id(&self) -> Option<ReplicaId> {
        self.life.borrow().map(|life| life.id)
    }

    /// Whether this replica has put the key of the newest record, so that it is there.
    pub(super) fn has_written(&self) -> bool {
        self.written.load(Ordering::Acquire)
    }

    pub(super) fn set_written(&self) {
        self.written.store(true, Ordering::Release);
    }

    /// The keys of a life are gone.
    pub(super) fn lose(&self, id: ReplicaId) {
        self.life.send_if_modified(|life| {
            let lost = life.is_some_and(|life| life.id == id);
            if lost {
                *life = None;
            }
            lost
        });
    }
}

/// A random number that is not zero.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    loop {
        // Where the system gives no random bytes there is none to retry with; it does after boot.
        if getrandom::fill(&mut bytes).is_ok() {
            let number = u64::from_le_bytes(bytes);
            if number != 0 {
                return number;
            }
        }
    }
}
