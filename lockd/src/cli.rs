//! The command line: one file a command, each with its flags, its help and its `run`.

mod barrier;
mod bench;
mod completion;
mod config;
mod connect;
mod detached;
mod dev;
mod elect;
mod exit;
mod explain;
mod fence;
mod force_release;
mod get;
mod leader;
mod lock;
mod ls;
mod man;
mod observe;
mod once;
mod output;
mod render;
mod run;
mod serve;
mod sidecar;
mod status;
mod watch;
mod yields;

use std::{ffi::OsString, num::NonZeroUsize, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
pub(crate) use exit::Exit;

use self::{connect::Target, exit::CommandError, output::Format};

/// Distributed locks that expire with their holder, in FIFO order, with fencing tokens.
#[derive(Debug, Parser)]
#[command(name = "lockd", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "\
Try it:
  lockd dev                                            a daemon that forgets all when it stops
  lockd lock demo -- sh -c 'echo $LOCKD_FENCING_TOKEN'   run a command while holding a lock
  lockd get demo                                       who holds it, and who waits")]
struct Cli {
    #[command(flatten)]
    target: Target,

    /// How to print: a table on a terminal, else JSON
    #[arg(short, long, global = true, value_name = "FORMAT")]
    output: Option<Format>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command while holding a lock, or several
    Lock(Box<lock::Args>),
    /// Run a command while leading
    Elect(Box<elect::Args>),
    /// Run a command that is to succeed once, anywhere
    Once(Box<once::Args>),
    /// Meet other parties, and leave with them
    Barrier(Box<barrier::Args>),
    /// Acquire a lock that stays when lockd exits
    Acquire(detached::AcquireArgs),
    /// Renew a lock that `acquire` has acquired
    Renew(detached::HandleArgs),
    /// Release a lock that `acquire` has acquired
    Release(detached::HandleArgs),
    /// List the locks that are held
    Ls(ls::Args),
    /// Show one lock: its holder, and who waits
    Get(get::Args),
    /// Follow the locks under a prefix as they change
    Watch(watch::Args),
    /// Say why a lock is held, and who waits for whom
    Explain(explain::Args),
    /// Show who leads
    Leader(leader::Args),
    /// Follow who leads
    Observe(observe::Args),
    /// Ask the holders of a lock to give it up
    Yield(yields::Args),
    /// Take a lock away from its holder
    ForceRelease(force_release::Args),
    /// Make the table by which a database refuses late writers
    Fence(fence::Args),
    /// Measure how fast a daemon is
    Bench(bench::Args),
    /// Show how a daemon is doing
    Status(status::Args),
    /// Run the daemon
    Serve(Box<serve::Args>),
    /// Run a daemon in memory, for a first try
    Dev(dev::Args),
    /// Give the app beside it locks and leader election, over HTTP
    Sidecar(Box<sidecar::Args>),
    /// Show the daemon's configuration, and where each value comes from
    Config(Box<config::Args>),
    /// Print a completion script for a shell
    Completion(completion::Args),
    /// Write manual pages
    Man(man::Args),
}

/// What every command is given.
#[derive(Debug)]
struct Globals {
    target: Target,
    output: Option<Format>,
}

fn parser() -> clap::Command {
    run::with_exit_codes(Cli::command())
}

/// Parses the arguments, runs the command, and says how it ended.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = parser().try_get_matches_from(args);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, errors to stderr; a failure to print can't be reported.
            drop(error.print());
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            return exit.into();
        }
    };
    let globals = Globals { target: cli.target, output: cli.output };
    match run(cli.command, &globals) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.tell();
            failure.exit.into()
        }
    }
}

/// One thread fewer than there are cores: the embedded store writes on one of its own, and what
/// goes from core to core is late. `TOKIO_WORKER_THREADS` says otherwise.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        builder.worker_threads(cores.saturating_sub(1).max(1));
    }
    builder.enable_all().build()
}

fn run(command: Command, globals: &Globals) -> Result<Exit, CommandError> {
    if let Command::Completion(args) = &command {
        return completion::run(args, &mut parser());
    }
    if let Command::Man(args) = &command {
        return man::run(args, parser());
    }
    let runtime = runtime().map_err(CommandError::internal)?;
    let exit = runtime.block_on(async {
        match command {
            Command::Lock(args) => lock::run(*args, globals).await,
            Command::Elect(args) => elect::run(*args, globals).await,
            Command::Once(args) => once::run(*args, globals).await,
            Command::Barrier(args) => barrier::run(*args, globals).await,
            Command::Acquire(args) => detached::acquire(args, globals).await,
            Command::Renew(args) => detached::renew(args, globals).await,
            Command::Release(args) => detached::release(args, globals).await,
            Command::Explain(args) => explain::run(args, globals).await,
            Command::Leader(args) => leader::run(args, globals).await,
            Command::Observe(args) => observe::run(args, globals).await,
            Command::Yield(args) => yields::run(args, globals).await,
            Command::Ls(args) => ls::run(args, globals).await,
            Command::Get(args) => get::run(args, globals).await,
            Command::Watch(args) => watch::run(args, globals).await,
            Command::ForceRelease(args) => force_release::run(args, globals).await,
            Command::Fence(args) => fence::run(args).await,
            Command::Bench(args) => bench::run(args, globals).await,
            Command::Status(args) => status::run(args, globals).await,
            Command::Serve(args) => serve::run(&args).await,
            Command::Dev(args) => dev::run(&args).await,
            Command::Sidecar(args) => sidecar::run(*args, globals).await,
            Command::Config(args) => config::run(&args, globals),
            Command::Completion(_) | Command::Man(_) => Ok(Exit::Success),
        }
    });
    // A read of stdin can't be cancelled, and must not hold up the exit.
    runtime.shutdown_background();
    exit
}
