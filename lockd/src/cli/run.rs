//! Runs a command while something is held: what `lock`, `elect`, `once` and `barrier` share.

mod child;
mod report;
mod signals;
mod supervise;
mod terminal;

use std::{path::PathBuf, time::Duration};

use clap::Args as ClapArgs;
use lockd_client::{Client, Context, EntryInfo, Error, Guard, Inside, LockInfo, OnceRun, Released};
use lockd_proto::LockName;

pub(super) use self::child::Output;
use self::{
    report::{RunOutcome, RunReport},
    signals::Signals,
    supervise::Grace,
};
use super::{
    Exit, Globals,
    exit::{self, CommandError},
    output, render,
};
use crate::duration;

/// How long a wait lasts before the user sees what it is for.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// How long the release may take before the lock is left to its lease.
const RELEASE: Duration = Duration::from_secs(5);

/// How long the end of the session may take after the lock was lost.
const FAREWELL: Duration = Duration::from_millis(500);

/// The commands whose help ends with the table of exit codes.
const COMMANDS: [&str; 4] = ["lock", "elect", "once", "barrier"];

/// What to run, and how to stop it.
#[derive(Debug, ClapArgs)]
pub(super) struct CommandArgs {
    /// How long what is held outlives this process if that dies
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    #[arg(default_value = "15s")]
    pub(super) ttl: Duration,

    /// How long the command has to stop when the lock is lost [default: a fifth of the TTL, at most 2s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    grace: Option<Duration>,

    /// The signal that asks the command to stop when the lock is lost
    #[arg(long, value_name = "SIGNAL", default_value = "TERM", value_parser = signals::parse)]
    signal: rustix::process::Signal,

    /// A command for the shell, instead of a command and its arguments
    #[arg(short, long, value_name = "SHELL-COMMAND", conflicts_with = "argv")]
    command: Option<String>,

    /// Write a JSON report of what happened to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    argv: Vec<std::ffi::OsString>,
}

/// What is held while the command runs, and how it ends.
pub(super) enum Held {
    /// Released at the end.
    Lock(Guard),
    /// Left at the end, with all others.
    Party(Inside),
    /// Completed if the command succeeds, with what it prints if that is wanted.
    Once(OnceRun, Output),
}

impl Held {
    fn guard(&self) -> &Guard {
        match self {
            Self::Lock(guard) => guard,
            Self::Party(inside) => inside.guard(),
            Self::Once(run, _) => run.guard(),
        }
    }

    fn output(&self) -> Output {
        match self {
            Self::Once(_, output) => *output,
            Self::Lock(_) | Self::Party(_) => Output::Inherited,
        }
    }
}

impl CommandArgs {
    /// Whether there is a command to run.
    pub(super) fn has_command(&self) -> bool {
        self.command.is_some() || !self.argv.is_empty()
    }

    fn grace(&self) -> Duration {
        self.grace.unwrap_or_else(|| grace_of(self.ttl))
    }

    /// Between two keepalives a good part of the lease runs out. A grace that does not fit into
    /// what is left then would stop every command as soon as it runs.
    fn check_grace(&self) -> Result<(), CommandError> {
        let (grace, ttl) = (self.grace(), self.ttl);
        if grace <= ttl / 2 {
            return Ok(());
        }
        let text = format!(
            "a grace of {grace:?} does not fit into a ttl of {ttl:?}: give a --ttl of at least twice the --grace"
        );
        Err(CommandError::new(Exit::Usage, text))
    }
}

/// Whether there has to be a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    ACommand,
    Nothing,
}

/// How long before safe-until what is held is given up: time to stop in, but at most 2 s.
pub(super) fn grace_of(ttl: Duration) -> Duration {
    (ttl / 5).min(Duration::from_secs(2))
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Lengthens the help by the exit codes, which have their own table.
pub(super) fn with_exit_codes(command: clap::Command) -> clap::Command {
    COMMANDS.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |sub| {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            sub.after_help(format!("{help}\n{}", exit::TABLE))
        })
    })
}

/// What to run: a program and its arguments.
fn command(args: &CommandArgs, needs: Needs) -> Result<Vec<std::ffi::OsString>, CommandError> {
    if let Some(shell_command) = &args.command {
        return Ok(["/bin/sh", "-c", shell_command].map(Into::into).to_vec());
    }
    if args.argv.is_empty() && needs == Needs::ACommand {
        let text = "no command: give one after --, or with -c; see --help";
        return Err(CommandError::new(Exit::Usage, text));
    }
    Ok(args.argv.clone())
}

/// Runs the command while `hold` holds something of these names. `None` of it means that there
/// is nothing to run.
pub(super) async fn run(
    args: &CommandArgs,
    names: &[String],
    needs: Needs,
    globals: &Globals,
    hold: impl AsyncFnOnce(&Client) -> Result<Option<Held>, CommandError>,
) -> Result<Exit, CommandError> {
    let argv = command(args, needs)?;
    args.check_grace()?;
    for name in names {
        LockName::parse(name.as_str())
            .map_err(|error| CommandError::new(Exit::Usage, error.to_string()))?;
    }
    // From here on no signal ends the process by itself.
    let mut signals = Signals::listen().map_err(CommandError::internal)?;
    let mut running = Running {
        args,
        argv,
        names,
        globals,
        report: RunReport::new(&names.join(","), &globals.target.namespace),
    };
    let ended = tokio::select! {
        connected = running.connect() => match connected {
            Ok(client) => running.under(hold, &client, &mut signals).await,
            Err(failure) => Err(failure),
        },
        signal = signals.terminating() => {
            running.report.ended(RunOutcome::Interrupted);
            Ok(Exit::Signal(signal))
        }
    };
    if let Some(file) = &args.report {
        let exit = ended.as_ref().map_or_else(|failure| failure.exit, |exit| *exit);
        if let Err(failure) = running.report.write(file, exit) {
            // How the command ended is worth more than the report.
            output::message(&failure.to_string());
        }
    }
    ended
}

/// A command that is to run.
struct Running<'a> {
    args: &'a CommandArgs,
    argv: Vec<std::ffi::OsString>,
    names: &'a [String],
    globals: &'a Globals,
    report: RunReport,
}

impl Running<'_> {
    async fn connect(&self) -> Result<Client, CommandError> {
        let name = self.argv.first().map(|program| program.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| "lockd".to_owned());
        self.globals.target.connect_as(name).await
    }

    /// Holds, runs, and lets go.
    async fn under(
        &mut self,
        hold: impl AsyncFnOnce(&Client) -> Result<Option<Held>, CommandError>,
        client: &Client,
        signals: &mut Signals,
    ) -> Result<Exit, CommandError> {
        let held = tokio::select! {
            held = telling(hold(client), client, self.names) => held,
            signal = signals.terminating() => {
                self.report.ended(RunOutcome::Interrupted);
                // Dropping the acquire left the queue; this waits until the server knows.
                client.shutdown().await;
                return Ok(Exit::Signal(signal));
            }
        };
        match held {
            Ok(Some(held)) => self.with(held, client, signals).await,
            Ok(None) => {
                self.report.ended(RunOutcome::Skipped);
                client.shutdown().await;
                Ok(Exit::Success)
            }
            Err(failure) => {
                self.report.ended(RunOutcome::NotAcquired);
                client.shutdown().await;
                Err(failure)
            }
        }
    }

    async fn with(
        &mut self,
        held: Held,
        client: &Client,
        signals: &mut Signals,
    ) -> Result<Exit, CommandError> {
        self.report.acquired(held.guard());
        let ran = if self.argv.is_empty() {
            Ok((Exit::Success, vec![]))
        } else {
            self.command(&held, client, signals).await
        };
        let exit = match ran {
            // There is nothing to release, and perhaps no server to reach.
            Ok((Exit::Lost, _)) => {
                drop(held);
                drop(tokio::time::timeout(FAREWELL, client.shutdown()).await);
                Ok(Exit::Lost)
            }
            ran => let_go(held, ran, client, signals).await,
        };
        self.report.ended(match exit {
            Ok(Exit::Lost) => RunOutcome::Lost,
            Ok(_) => RunOutcome::Completed,
            Err(_) => RunOutcome::NotStarted,
        });
        exit
    }

    /// Runs the command to its end, and gives what it has printed where that is wanted.
    async fn command(
        &self,
        held: &Held,
        client: &Client,
        signals: &mut Signals,
    ) -> Result<(Exit, Vec<u8>), CommandError> {
        let guard = held.guard();
        let environment = [
            ("LOCKD_LOCK_NAME", self.names.join(",")),
            ("LOCKD_FENCING_TOKEN", guard.token().to_string()),
            ("LOCKD_SESSION_ID", guard.session_id().to_string()),
            ("LOCKD_NAMESPACE", self.globals.target.namespace.clone()),
        ];
        let mut child = child::Child::spawn(&self.argv, environment, held.output())?;
        let printed = child.printed();
        let grace = Grace { length: self.args.grace(), signal: self.args.signal };
        let ended = supervise::supervise(child, guard, client.clock(), signals, grace);
        let (exit, printed) = tokio::join!(ended, printed);
        Ok((exit?, printed?))
    }
}

/// Ends what is held as it has to end after the command, and says how lockd is to exit.
async fn let_go(
    held: Held,
    ran: Result<(Exit, Vec<u8>), CommandError>,
    client: &Client,
    signals: &mut Signals,
) -> Result<Exit, CommandError> {
    let exit = match (held, ran) {
        (Held::Lock(guard), ran) => match (release(guard).await, ran) {
            // It was gone already: the command ran without it, however short.
            (Some(Released::AlreadyLost), Ok(_)) => Ok(Exit::Lost),
            (_, ran) => ran.map(|(exit, _)| exit),
        },
        (Held::Party(inside), Ok((exit, _))) => leave(inside, exit, signals).await,
        (Held::Once(run, _), Ok((exit, printed))) if exit.code() == 0 => {
            complete(run, printed, exit).await
        }
        (Held::Once(run, _), ran) => {
            if let Err(error) = run.fail().await {
                output::message(&error.to_string());
            }
            ran.map(|(exit, _)| exit)
        }
        // Dropping it notifies the others.
        (Held::Party(_), Err(failure)) => Err(failure),
    };
    // The session is closed, so that nothing is left at the server.
    drop(tokio::time::timeout(RELEASE, client.shutdown()).await);
    exit
}

async fn leave(inside: Inside, exit: Exit, signals: &mut Signals) -> Result<Exit, CommandError> {
    let ctx = Context::background();
    let left = tokio::select! {
        left = inside.leave(&ctx) => left,
        signal = signals.terminating() => return Ok(Exit::Signal(signal)),
    };
    match left {
        Ok(()) => Ok(exit),
        Err(error) => {
            output::message(&error.to_string());
            Ok(Exit::Lost)
        }
    }
}

async fn complete(run: OnceRun, printed: Vec<u8>, exit: Exit) -> Result<Exit, CommandError> {
    match run.complete(&Context::background(), printed).await {
        Ok(()) => Ok(exit),
        Err(error) if error.is_lost() => {
            output::message(&error.to_string());
            Ok(Exit::Lost)
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits for something to be held. If that takes a while, says once what it waits for.
async fn telling<T>(held: impl Future<Output = T>, client: &Client, names: &[String]) -> T {
    let mut held = std::pin::pin!(held);
    tokio::select! {
        held = &mut held => return held,
        () = tokio::time::sleep(TELL_AFTER) => {}
    }
    let tell = async {
        for name in names {
            if let Ok(Some(found)) = client.get(name).await {
                output::message(&waiting_for(name, &found));
            }
        }
    };
    tokio::select! {
        held = &mut held => return held,
        () = tell => {}
    }
    held.await
}

/// A failure to acquire, with the exit code for a lock that is busy.
pub(super) fn not_acquired(error: Error, busy: Exit) -> CommandError {
    use lockd_client::ErrorKind;
    match error.kind() {
        ErrorKind::WaitExpired | ErrorKind::Busy => CommandError::new(busy, error.to_string()),
        _ => CommandError::from(error),
    }
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
async fn release(guard: Guard) -> Option<Released> {
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
    released
}
