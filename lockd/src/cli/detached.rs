//! `lockd acquire`, `renew` and `release`: a lock for scripts that can't wrap a command.

use std::{io::Read as _, path::PathBuf, time::Duration};

use clap::Args as ClapArgs;
use lockd_client::{Client, DetachedLock, Released};
use lockd_proto::FencingToken;
use serde::Deserialize;
use serde_json::json;

use super::{
    Exit, Globals,
    exit::CommandError,
    output::{self, Format},
    run,
};
use crate::duration;

/// The flags of `lockd acquire`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The lock stays when lockd exits: for --ttl, or until it is renewed in time. Nobody tells the
script when it is lost. Where you can, wrap the command with `lockd lock` instead.

Examples:
  lockd acquire deploy --ttl 30s -o json > deploy.lock
  lockd renew deploy.lock
  lockd release deploy.lock")]
pub(super) struct AcquireArgs {
    /// The lock's name
    #[arg(value_name = "NAME")]
    name: String,

    /// How long it is held unless it is renewed
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    ttl: Duration,

    /// Wait at most this long [default: not at all]
    #[arg(short, long, value_name = "DURATION", value_parser = duration::parse)]
    #[arg(default_value = "0s")]
    wait: Duration,
}

/// The flags of `lockd renew` and `lockd release`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Exits with 79 if the lock was lost before.")]
pub(super) struct HandleArgs {
    /// What `lockd acquire -o json` has printed; - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What `lockd acquire -o json` prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    name: String,
    namespace: String,
    token: FencingTokenText,
    session_id: String,
    secret: String,
    request_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct FencingTokenText(FencingToken);

impl TryFrom<String> for FencingTokenText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is no token"))
    }
}

pub(super) async fn acquire(args: AcquireArgs, globals: &Globals) -> Result<Exit, CommandError> {
    let client = globals.target.connect().await?;
    let acquired = client.acquire_detached(&args.name, args.ttl, args.wait).await;
    let lock = acquired.map_err(|error| run::not_acquired(error, Exit::Busy))?;
    match globals.output.unwrap_or(Format::Json) {
        format @ (Format::Json | Format::Jsonl) => {
            let fields = json!({
                "name": lock.name,
                "namespace": globals.target.namespace,
                "token": lock.token.to_string(),
                "ttlMs": lock.ttl.as_millis().to_string(),
                "sessionId": lock.session_id,
                "secret": lock.secret,
                "requestId": lock.request_id,
            });
            output::print_json(format, &output::document("AcquiredLock", fields))?;
        }
        // Without the rest, the lock could be neither renewed nor released.
        Format::Table | Format::Wide | Format::Name => {
            client.release_detached(&lock).await?;
            let text = "an acquired lock is printed as JSON: give -o json, and keep it";
            return Err(CommandError::new(Exit::Usage, text));
        }
    }
    Ok(Exit::Success)
}

pub(super) async fn renew(args: HandleArgs, globals: &Globals) -> Result<Exit, CommandError> {
    let (client, lock) = find(&args, globals).await?;
    match client.renew_detached(&lock).await {
        Ok(ttl) => {
            let fields = json!({ "name": lock.name, "ttlMs": ttl.as_millis().to_string() });
            let format = Format::or_default(globals.output, Format::Json);
            match format {
                Format::Json | Format::Jsonl => {
                    output::print_json(format, &output::document("RenewedLock", fields))?;
                }
                Format::Table | Format::Wide | Format::Name => output::print(&lock.name)?,
            }
            Ok(Exit::Success)
        }
        Err(error) => lost(&lock, error),
    }
}

pub(super) async fn release(args: HandleArgs, globals: &Globals) -> Result<Exit, CommandError> {
    let (client, lock) = find(&args, globals).await?;
    match client.release_detached(&lock).await {
        Ok(Released::Released) => Ok(Exit::Success),
        Ok(Released::AlreadyLost | Released::Unknown) => {
            output::message(&format!("{:?} was lost before it could be released", lock.name));
            Ok(Exit::Lost)
        }
        Err(error) => lost(&lock, error),
    }
}

fn lost(lock: &DetachedLock, error: lockd_client::Error) -> Result<Exit, CommandError> {
    if error.kind() == lockd_client::ErrorKind::NotFound {
        output::message(&format!("{:?} was lost: its lease ran out", lock.name));
        return Ok(Exit::Lost);
    }
    Err(error.into())
}

async fn find(
    args: &HandleArgs,
    globals: &Globals,
) -> Result<(Client, DetachedLock), CommandError> {
    let wrong = |error: String| {
        let text = format!("{} is not what `lockd acquire` printed: {error}", args.file.display());
        CommandError::new(Exit::Usage, text)
    };
    let document: Document = serde_json::from_str(&read(args).map_err(wrong)?)
        .map_err(|error| wrong(error.to_string()))?;
    let session = (document.session_id, document.secret);
    let lock = DetachedLock::new(document.name, document.token.0, session, document.request_id)?;
    let target = globals.target.in_namespace(document.namespace);
    Ok((target.connect().await?, lock))
}

fn read(args: &HandleArgs) -> Result<String, String> {
    let mut text = String::new();
    let read = match args.file.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(drop),
        _ => std::fs::read_to_string(&args.file).map(|read| text = read),
    };
    read.map(|()| text).map_err(|error| error.to_string())
}
