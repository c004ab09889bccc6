//! Before anything is read: the members' versions, what else may lie under the prefix, and whether the
//! cluster still has the history that the log was written in.

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, KeyValue, Txn, TxnOp};

use super::{
    fault::Refusal,
    history::{History, Seen},
    mark,
    replica::{Known, Replica, random},
    version,
};
use crate::{log::LogError, record::Position};

/// Waits for the cluster, checks it, and reads or begins the history.
pub(super) async fn start(replica: &Replica) -> Result<(), LogError> {
    let endpoints = &replica.endpoints;
    // A call, for only its error says why: a wrong password will not mend.
    endpoints.call(|mut client| async move { client.status().await }).await?;
    for (url, status) in endpoints.statuses().await {
        version::check(url, status.version())?;
        tracing::info!(url, version = status.version(), "etcd answers");
    }
    foreign(replica).await?;
    let known = history(replica).await?;
    replica.set_history(known);
    Ok(())
}

/// Refuses what another version of lockd has left.
async fn foreign(replica: &Replica) -> Result<(), LogError> {
    for (from, to) in replica.keys.foreign() {
        let options = GetOptions::new().with_range(to).with_limit(1).with_keys_only();
        if let Some(kv) = replica.endpoints.get(from, Some(options)).await?.kvs().first() {
            return Err(LogError::Broken(format!(
                "etcd holds the locks of an earlier version of lockd under {:?}, such as {:?}: release \
                 them with that version and delete the keys, or choose another prefix",
                replica.config.prefix,
                String::from_utf8_lossy(kv.key()),
            )));
        }
    }
    Ok(())
}

/// The keys of the history at one revision.
struct Kept {
    seen: Seen,
    newest: i64,
    history: Option<KeyValue>,
    marks: Option<KeyValue>,
}

impl Kept {
    fn of(replica: &Replica, response: &GetResponse) -> Self {
        let find = |key: Vec<u8>| response.kvs().iter().find(|kv| kv.key() == key);
        Self {
            seen: Seen::of(response.header()),
            newest: find(replica.keys.newest()).map_or(0, KeyValue::mod_revision),
            history: find(replica.keys.history()).cloned(),
            marks: find(replica.keys.seen()).cloned(),
        }
    }

    /// Why the cluster is not the one that the log was written in.
    fn doubt(&self, history: &History) -> Result<Option<String>, LogError> {
        let cluster = Seen { cluster: history.cluster, term: 0, revision: 0 };
        let last = match &self.marks {
            Some(kv) => Seen::parse(kv.value()).ok_or_else(|| unreadable(kv))?,
            None => Seen::default(),
        };
        // An accepted cluster has another id than when the marks were written.
        let last = Seen { cluster: 0, ..last };
        Ok(cluster.contradicts(&self.seen).or_else(|| last.contradicts(&self.seen)))
    }
}

fn unreadable(kv: &KeyValue) -> LogError {
    let key = String::from_utf8_lossy(kv.key());
    LogError::Broken(format!(
        "{key:?} in etcd is not what this version of lockd writes: upgrade it"
    ))
}

async fn history(replica: &Replica) -> Result<Known, LogError> {
    let name = replica.config.accept_restored.as_deref();
    loop {
        let kept = kept(replica).await?;
        let (history, revision) = match &kept.history {
            Some(kv) => {
                let history = History::parse(kv.value()).ok_or_else(|| unreadable(kv))?;
                (Some(history), kv.mod_revision())
            }
            None => (None, 0),
        };
        let doubt = match &history {
            Some(history) => match kept.doubt(history)? {
                None => older_than_mark(replica, history.position(kept.seen.revision))?,
                doubt => doubt,
            },
            None if kept.newest > 0 => Some("its key of the history is gone".to_owned()),
            None => None,
        };
        // A name that was used already accepts nothing more: it may stay in a configuration.
        let accepts = name.filter(|name| {
            history.as_ref().is_some_and(|history| history.accepted.as_deref() != Some(name))
                || doubt.is_some() && history.is_none()
        });
        let new = || History::new(random(), kept.seen.cluster);
        let begun = match (history, accepts, doubt) {
            (history, Some(name), doubt) => {
                tracing::warn!(?doubt, name, "a restored etcd is accepted: a new era begins");
                history.unwrap_or_else(new).accept(name, (random(), kept.seen))
            }
            (_, None, Some(why)) => return Err(refused(&why)),
            (Some(history), None, None) => {
                note_seen(replica, &kept).await?;
                if let Some(path) = &replica.config.mark_file {
                    mark::begin(path, history.position(kept.seen.revision))?;
                }
                return Ok(Known { history, revision });
            }
            // The name belongs to a restore of before this log began.
            (None, None, None) => {
                let mut first = new();
                first.accepted = name.map(str::to_owned);
                first
            }
        };
        begin(replica, &kept, (&begun, revision)).await?;
    }
}

fn older_than_mark(replica: &Replica, reached: Position) -> Result<Option<String>, LogError> {
    let path = replica.config.mark_file.as_deref();
    path.map_or(Ok(None), |path| mark::doubt(path, reached))
}

fn refused(why: &str) -> LogError {
    LogError::Broken(format!(
        "etcd was restored from a backup or is another cluster: {why}; fencing tokens would repeat. If it \
         is the cluster to go on with, start lockd with accept-restored and a new name: tokens jump ahead"
    ))
}

async fn kept(replica: &Replica) -> Result<Kept, Refusal> {
    let keys = &replica.keys;
    let end = [&keys.seen()[..], b"\0"].concat();
    let read = replica.endpoints.get(keys.newest(), Some(GetOptions::new().with_range(end)));
    Ok(Kept::of(replica, &read.await?))
}

/// Begins a history or an era, unless another replica has done so, or written a record, since it was
/// read.
async fn begin(
    replica: &Replica,
    kept: &Kept,
    (history, compared): (&History, i64),
) -> Result<(), Refusal> {
    let keys = &replica.keys;
    let txn = Txn::new()
        .when([
            Compare::mod_revision(keys.history(), CompareOp::Equal, compared),
            Compare::mod_revision(keys.newest(), CompareOp::Equal, kept.newest),
        ])
        .and_then([
            TxnOp::put(keys.history(), history.to_string(), None),
            TxnOp::put(keys.seen(), kept.seen.to_string(), None),
        ]);
    replica.endpoints.txn(txn).await.map(drop)
}

/// Writes what the cluster is now, for the next start to compare with.
async fn note_seen(replica: &Replica, kept: &Kept) -> Result<(), Refusal> {
    let seen = replica.keys.seen();
    let compared = kept.marks.as_ref().map_or(0, KeyValue::mod_revision);
    let txn = Txn::new()
        .when([Compare::mod_revision(seen.clone(), CompareOp::Equal, compared)])
        .and_then([TxnOp::put(seen, kept.seen.to_string(), None)]);
    match replica.endpoints.txn(txn).await {
        // A cluster without space has the marks of an earlier start.
        Err(Refusal::Full(_)) => Ok(()),
        marked => marked.map(drop),
    }
}
