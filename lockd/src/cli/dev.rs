//! `lockd dev`: a daemon in memory, for a first try.

use std::net::SocketAddr;

use clap::Args as ClapArgs;
use lockd_proto::clock::Clock;

use super::{
    Exit,
    exit::CommandError,
    output,
    serve::{self, Daemon},
};
use crate::{
    config::{Flags, Settings},
    log::journal::Journal,
    telemetry::{logs::Logs, tasks::Lifecycle},
};

/// The flags of `lockd dev`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Where to serve gRPC; port 0 picks a free one [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,

    /// Where to serve health over HTTP; port 0 picks a free one [default: 127.0.0.1:7421]
    #[arg(long, value_name = "ADDR")]
    http_listen: Option<SocketAddr>,
}

pub(super) async fn run(args: &Args) -> Result<Exit, CommandError> {
    let flags = Flags { listen: args.listen, http_listen: args.http_listen, ..Flags::default() };
    serve::check_propagation()?;
    let settings = Settings::load(&flags)?;
    let logs = Logs::start(&settings.log, settings.log_format)?;
    let life = Lifecycle::default();
    let daemon = Daemon { settings, logs, life };
    serve::serve(daemon, Journal::in_memory(Clock::system())?, |grpc, _| {
        output::print(&welcome(grpc))
    })
    .await
}

fn welcome(grpc: SocketAddr) -> String {
    format!(
        "\
┌────────────────────────────────────────────────────────────────┐
│  This daemon keeps everything in memory: all locks are gone    │
│  when it stops. Never use it for more than a try; `lockd serve`│
│  is the one that remembers.                                    │
└────────────────────────────────────────────────────────────────┘
In another shell:

  export LOCKD_ADDR=http://{grpc}
  lockd lock demo -- sh -c 'echo $LOCKD_FENCING_TOKEN'
"
    )
}
