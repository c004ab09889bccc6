//! `lockd fence`: the table by which a database refuses who holds a lock no longer.

use std::{str::FromStr as _, time::Duration};

use clap::{Args as ClapArgs, Subcommand};
use lockd_client::postgres::FENCE_TABLE;
use sqlx::{Connection as _, Executor as _, PgConnection, postgres::PgConnectOptions};

use super::{Exit, exit::CommandError, output};

/// How long the database may take in all.
const LIMIT: Duration = Duration::from_secs(30);

/// The flags of `lockd fence`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    command: FenceCommand,
}

#[derive(Debug, Subcommand)]
enum FenceCommand {
    /// Make the fence table in a database, unless it is there
    Init(Init),
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The table lockd_fence has a row for each lock that fences: the greatest token seen. Whoever writes
under a lock needs SELECT, INSERT and UPDATE on it.

Examples:
  lockd fence init --postgres postgres://app@db/orders
  lockd fence init --print > migrations/0007_lockd_fence.sql")]
struct Init {
    /// The database
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    #[arg(required_unless_present = "print")]
    postgres: Option<String>,

    /// Print the SQL instead, for your own migrations
    #[arg(long)]
    print: bool,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let FenceCommand::Init(Init { postgres, print }) = args.command;
    match postgres.filter(|_| !print) {
        Some(url) => init(&url).await?,
        None => output::print(FENCE_TABLE.trim_end())?,
    }
    Ok(Exit::Success)
}

async fn init(url: &str) -> Result<(), CommandError> {
    let options = PgConnectOptions::from_str(url)
        // The URL may have a password, so it is not repeated.
        .map_err(|error| CommandError::new(Exit::Usage, format!("--postgres: {error}")))?;
    let database = options.get_database().unwrap_or(options.get_username()).to_owned();
    let host = options.get_host().to_owned();
    let made = tokio::time::timeout(LIMIT, make(&options)).await;
    let made = made.map_err(|_| {
        CommandError::new(Exit::Unavailable, format!("{host} has not answered within {LIMIT:?}"))
    })?;
    made.map_err(|error| {
        CommandError::new(
            exit_for(&error),
            format!("make lockd_fence in {database} at {host}: {error}"),
        )
    })?;
    output::message(&format!("the table lockd_fence is in {database} at {host}"));
    Ok(())
}

async fn make(options: &PgConnectOptions) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect_with(options).await?;
    connection.execute(sqlx::raw_sql(FENCE_TABLE)).await?;
    connection.close().await
}

fn exit_for(error: &sqlx::Error) -> Exit {
    let state = error.as_database_error().and_then(|error| error.code());
    match (error, state.as_deref()) {
        (_, Some("28000" | "28P01" | "42501")) => Exit::Permission,
        (_, Some("3D000")) => Exit::Config,
        (sqlx::Error::Io(_) | sqlx::Error::Tls(_), _) => Exit::Unavailable,
        (_, Some(state)) if state.starts_with("57P") => Exit::Unavailable,
        _ => Exit::Internal,
    }
}
