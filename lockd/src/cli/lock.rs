//! `lockd lock`: runs a command while holding a lock.

mod child;
mod report;
mod signals;
mod supervise;
mod terminal;

use std::{path::PathBuf, time::Duration};

use clap::Args as ClapArgs;
use lockd_client::{
    Client, Context, EntryInfo, Error, ErrorKind, Guard, LockBuilder, LockInfo, Released,
};
use lockd_proto::LockName;

use self::{
    report::{Ending, Report},
    signals::Signals,
    supervise::Grace,
};
use super::{
    Exit, Globals,
    exit::{self, Failure},
    output, render,
};

/// How long a wait lasts before the user is told what for.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// How long the release may take before the lock is left to its lease.
const RELEASE: Duration = Duration::from_secs(5);

/// How long the end of the session may take after the lock was lost.
const FAREWELL: Duration = Duration::from_millis(500);

/// The flags of `lockd lock`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The command runs in a process group of its own. Signals sent to lockd are passed on to it. If
the lock is lost, the group gets SIGTERM, or --signal, at the latest --grace before the lease
ends, and SIGKILL at its end. Its environment has LOCKD_LOCK_NAME, LOCKD_FENCING_TOKEN,
LOCKD_SESSION_ID and LOCKD_NAMESPACE.

Examples:
  lockd lock nightly-backup -- /usr/local/bin/backup
  lockd lock --nonblock -E 0 cron/report -- ./report.sh    skip if another host is at it
  lockd lock --wait 30s deploy -c 'make deploy && make smoke'
")]
pub(super) struct Args {
    /// The lock's name
    #[arg(value_name = "NAME")]
    name: String,

    /// Do not wait if the lock is held
    #[arg(short, long, conflicts_with = "wait")]
    nonblock: bool,

    /// Wait at most this long
    #[arg(short, long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,

    /// How long the lock outlives this process if that dies
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    #[arg(default_value = "15s")]
    ttl: Duration,

    /// How long the command has to stop when the lock is lost [default: a fifth of the TTL, at most 2s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    grace: Option<Duration>,

    /// The signal that tells the command to stop when the lock is lost
    #[arg(long, value_name = "SIGNAL", default_value = "TERM", value_parser = signals::parse)]
    signal: rustix::process::Signal,

    /// The exit code when the lock is busy or the wait expired
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = Exit::Busy.code())]
    conflict_exit_code: u8,

    /// A command for the shell, instead of a command and its arguments
    #[arg(short, long, value_name = "SHELL-COMMAND", conflicts_with = "argv")]
    command: Option<String>,

    /// Write a JSON report of what happened to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Shown to others beside the lock; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    meta: Vec<(String, String)>,

    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    argv: Vec<std::ffi::OsString>,
}

impl Args {
    fn grace(&self) -> Duration {
        self.grace.unwrap_or_else(|| (self.ttl / 5).min(Duration::from_secs(2)))
    }

    /// Between two keepalives a good part of the lease runs out. A grace that does not fit into
    /// what is left then would stop every command as soon as it runs.
    fn check_grace(&self) -> Result<(), Failure> {
        let (grace, ttl) = (self.grace(), self.ttl);
        if grace <= ttl / 2 {
            return Ok(());
        }
        let text = format!(
            "a grace of {grace:?} does not fit into a ttl of {ttl:?}: give a --ttl of at least twice the --grace"
        );
        Err(Failure::new(Exit::Usage, text))
    }
}

/// A duration such as `1m30s`, or a number of seconds, as flock(1) takes it.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Lengthens the help by the exit codes, which have their own table.
pub(super) fn with_exit_codes(command: clap::Command) -> clap::Command {
    command.mut_subcommand("lock", |lock| {
        let help = lock.get_after_help().map(ToString::to_string).unwrap_or_default();
        lock.after_help(format!("{help}\n{}", exit::TABLE))
    })
}

/// What to run: a program and its arguments.
fn command(args: &Args) -> Result<Vec<std::ffi::OsString>, Failure> {
    if let Some(shell_command) = &args.command {
        return Ok(["/bin/sh", "-c", shell_command].map(Into::into).to_vec());
    }
    if args.argv.is_empty() {
        let text = "no command: give one after --, or with -c; see lockd lock --help";
        return Err(Failure::new(Exit::Usage, text));
    }
    Ok(args.argv.clone())
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    let argv = command(&args)?;
    args.check_grace()?;
    LockName::parse(args.name.as_str())
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    // From here on no signal ends the process by itself.
    let mut signals = Signals::listen().map_err(Failure::internal)?;
    let mut report = Report::new(&args.name, &globals.target.namespace);
    let ended = tokio::select! {
        connected = connect(&argv, globals) => match connected {
            Ok(client) => hold(&args, &argv, globals, &client, &mut signals, &mut report).await,
            Err(failure) => Err(failure),
        },
        signal = signals.terminating() => {
            report.ended(Ending::Interrupted);
            Ok(Exit::Signal(signal))
        }
    };
    if let Some(file) = &args.report {
        let exit = ended.as_ref().map_or_else(|failure| failure.exit, |exit| *exit);
        if let Err(failure) = report.write(file, exit) {
            // How the command ended is worth more than the report.
            output::message(&failure.to_string());
        }
    }
    ended
}

async fn connect(argv: &[std::ffi::OsString], globals: &Globals) -> Result<Client, Failure> {
    let name = argv.first().map(|program| program.to_string_lossy().into_owned());
    globals.target.connect_as(name.unwrap_or_default()).await
}

async fn hold(
    args: &Args,
    argv: &[std::ffi::OsString],
    globals: &Globals,
    client: &Client,
    signals: &mut Signals,
    report: &mut Report,
) -> Result<Exit, Failure> {
    let guard = tokio::select! {
        guard = acquire(args, client) => guard,
        signal = signals.terminating() => {
            report.ended(Ending::Interrupted);
            // Dropping the acquire left the queue; this waits until the server knows.
            client.shutdown().await;
            return Ok(Exit::Signal(signal));
        }
    };
    let guard = match guard {
        Ok(guard) => guard,
        Err(failure) => {
            report.ended(Ending::NotAcquired);
            client.shutdown().await;
            return Err(failure);
        }
    };
    report.acquired(&guard);
    let environment = [
        ("LOCKD_LOCK_NAME", args.name.clone()),
        ("LOCKD_FENCING_TOKEN", guard.token().to_string()),
        ("LOCKD_SESSION_ID", guard.session_id().to_string()),
        ("LOCKD_NAMESPACE", globals.target.namespace.clone()),
    ];
    let exit = match child::Child::spawn(argv, environment) {
        Ok(child) => {
            let grace = Grace { length: args.grace(), signal: args.signal };
            supervise::supervise(child, &guard, client.clock(), signals, grace).await
        }
        Err(failure) => Err(failure),
    };
    let exit = match exit {
        // There is nothing to release, and perhaps nobody to talk to.
        Ok(Exit::Lost) => {
            drop(guard);
            drop(tokio::time::timeout(FAREWELL, client.shutdown()).await);
            Ok(Exit::Lost)
        }
        exit => match (release(guard, client).await, exit) {
            // It was gone already: the command ran without it, however short.
            (Some(Released::AlreadyLost), Ok(_)) => Ok(Exit::Lost),
            (_, exit) => exit,
        },
    };
    report.ended(match exit {
        Ok(Exit::Lost) => Ending::Lost,
        Ok(_) => Ending::Completed,
        Err(_) => Ending::NotStarted,
    });
    exit
}

async fn acquire(args: &Args, client: &Client) -> Result<Guard, Failure> {
    let ctx = Context::background();
    let lock =
        args.meta.iter().fold(client.lock(&args.name).ttl(args.ttl), |lock, (key, value)| {
            lock.metadata(key, value)
        });
    let busy = Exit::Code(args.conflict_exit_code);
    if args.nonblock {
        let guard = lock.try_acquire(&ctx).await?;
        let text = || format!("{:?} is held: see `lockd get {}`", args.name, args.name);
        return guard.ok_or_else(|| Failure::new(busy, text()));
    }
    let lock = match args.wait {
        Some(wait) => lock.wait(wait),
        None => lock,
    };
    wait(lock, &ctx, client, &args.name).await.map_err(|error| match error.kind() {
        ErrorKind::WaitExpired | ErrorKind::Busy => Failure::new(busy, error.to_string()),
        _ => Failure::from(error),
    })
}

/// Acquires the lock. If that takes a while, says once what it waits for.
async fn wait(
    lock: LockBuilder,
    ctx: &Context,
    client: &Client,
    name: &str,
) -> Result<Guard, Error> {
    let mut acquired = std::pin::pin!(lock.acquire(ctx));
    tokio::select! {
        guard = &mut acquired => return guard,
        () = tokio::time::sleep(TELL_AFTER) => {}
    }
    let tell = async {
        if let Ok(Some(found)) = client.get(name).await {
            output::message(&waiting_for(name, &found));
        }
    };
    tokio::select! {
        guard = &mut acquired => return guard,
        () = tell => {}
    }
    acquired.await
}

/// Who holds the lock, and how many are ahead of this process.
fn waiting_for(name: &str, found: &LockInfo) -> String {
    let ours = |entry: &&EntryInfo| entry.pid == std::process::id();
    let before = found.waiters.iter().take_while(|entry| !ours(entry)).count();
    let ahead = before + found.holders.len();
    let holder = found.holder().map_or_else(String::new, |holder| {
        format!("held by {} (token {}), ", render::who(holder), holder.token)
    });
    format!("waiting for {name:?}: {holder}{ahead} ahead")
}

/// Gives the lock back, and says what was found where that is known.
async fn release(guard: Guard, client: &Client) -> Option<Released> {
    let name = guard.name().to_string();
    let released = tokio::time::timeout(RELEASE, guard.release()).await.ok().and_then(Result::ok);
    match released {
        Some(Released::Released) => {}
        Some(Released::AlreadyLost) => {
            output::message(&format!("{name:?} was lost before it could be released"));
        }
        Some(Released::Unknown) | None => {
            output::message(&format!(
                "{name:?} could not be released: it is free when its lease ends"
            ));
        }
    }
    // The session is closed, so that nothing is left at the server.
    drop(tokio::time::timeout(RELEASE, client.shutdown()).await);
    released
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_flock_and_as_people_write_them() {
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "soon", "-1", "inf", "NaN"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
