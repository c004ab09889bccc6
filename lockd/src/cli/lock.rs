//! `lockd lock`: runs a command while holding locks.

use std::time::Duration;

use clap::Args as ClapArgs;
use lockd_client::{Client, Context, LockBuilder};

use super::{
    Exit, Globals,
    exit::CommandError,
    run::{self, Held, Needs},
};
use crate::duration;

/// The flags of `lockd lock`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The command runs in a process group of its own. Signals sent to lockd are passed on to it. If
the lock is lost, the group gets SIGTERM, or --signal, at the latest --grace before the lease
ends, and SIGKILL at its end. Its environment has LOCKD_LOCK_NAME, LOCKD_FENCING_TOKEN,
LOCKD_SESSION_ID and LOCKD_NAMESPACE. Several locks are acquired together, all or none.

Examples:
  lockd lock nightly-backup -- /usr/local/bin/backup
  lockd lock --nonblock -E 0 cron/report -- ./report.sh    skip if another host is at it
  lockd lock --wait 30s deploy -c 'make deploy && make smoke'
  lockd lock --shared table/users -- ./export.sh           beside other readers
  lockd lock --permits 1/3 encoders -- ./encode.sh         at most three at a time
  lockd lock accounts/7 accounts/9 -- ./transfer.sh
")]
pub(super) struct Args {
    /// The lock's name; several are acquired together
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,

    /// Hold the lock together with others that hold it shared
    #[arg(short, long, conflicts_with = "permits")]
    shared: bool,

    /// Hold N of M permits; the first one who does fixes M
    #[arg(short, long, value_name = "N/M", value_parser = permits)]
    permits: Option<(u32, u32)>,

    /// Do not wait if the lock is held
    #[arg(short, long, conflicts_with = "wait")]
    nonblock: bool,

    /// Wait at most this long
    #[arg(short, long, value_name = "DURATION", value_parser = duration::parse)]
    wait: Option<Duration>,

    /// The exit code when the lock is busy or the wait expired
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = Exit::Busy.code())]
    conflict_exit_code: u8,

    /// The logical task that this belongs to: waits that name one take part in deadlock detection
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,

    /// How long no other session gets the lock after a loss
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    lock_delay: Option<Duration>,

    /// Shown to others beside the lock; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = run::key_value)]
    meta: Vec<(String, String)>,

    #[command(flatten)]
    run: run::CommandArgs,
}

fn permits(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("{text:?} is not N/M, such as 1/3");
    let (count, capacity) = text.split_once('/').ok_or_else(wrong)?;
    let number = |text: &str| text.parse().map_err(|_| wrong());
    Ok((number(count)?, number(capacity)?))
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    if args.permits.is_some() && args.names.len() > 1 {
        let text = "--permits is for one semaphore: several names are locks";
        return Err(CommandError::new(Exit::Usage, text));
    }
    let acquire = async |client: &Client| acquire(&args, client).await.map(Some);
    run::run(&args.run, &args.names, Needs::ACommand, globals, acquire).await
}

async fn acquire(args: &Args, client: &Client) -> Result<Held, CommandError> {
    let ctx = Context::background();
    let lock = builder(args, client);
    let busy = Exit::Code(args.conflict_exit_code);
    if args.nonblock {
        let guard = lock.try_acquire(&ctx).await?;
        let names = args.names.join(" ");
        let text = || format!("{names:?} is held: see `lockd get {names}`");
        return guard.map(Held::Lock).ok_or_else(|| CommandError::new(busy, text()));
    }
    let lock = match args.wait {
        Some(wait) => lock.wait(wait),
        None => lock,
    };
    let acquired = lock.acquire(&ctx).await;
    acquired.map(Held::Lock).map_err(|error| run::not_acquired(error, busy))
}

fn builder(args: &Args, client: &Client) -> LockBuilder {
    let lock = match (args.permits, args.names.as_slice()) {
        (Some((count, capacity)), [name]) => client.semaphore(name, capacity).permits(count),
        (_, names) if args.shared => client.lock_all(names).shared(),
        (_, names) => client.lock_all(names),
    };
    let lock = match &args.owner {
        Some(owner) => lock.owner(owner),
        None => lock,
    };
    let lock = match args.lock_delay {
        Some(delay) => lock.lock_delay(delay),
        None => lock,
    };
    args.meta.iter().fold(lock.ttl(args.run.ttl), |lock, (key, value)| lock.metadata(key, value))
}
