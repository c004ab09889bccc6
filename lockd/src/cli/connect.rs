//! Which daemon the command talks to.

use clap::Args;
use lockd_client::Client;

use super::exit::{CommandError, Exit};

/// Where the daemon is, and which namespace is meant.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The daemon's address; several, separated by commas, are tried in turn
    #[arg(long, global = true, env = "LOCKD_ADDR", value_name = "ADDR")]
    #[arg(default_value = "http://127.0.0.1:7420")]
    pub(super) addr: String,

    /// The namespace of the locks
    #[arg(short = 'N', long, global = true, env = "LOCKD_NAMESPACE", value_name = "NAME")]
    #[arg(default_value = "default")]
    pub(super) namespace: String,
}

impl Target {
    /// The same daemon, another namespace.
    pub(super) fn in_namespace(&self, namespace: String) -> Self {
        Self { addr: self.addr.clone(), namespace }
    }

    /// A client of that daemon.
    pub(super) async fn connect(&self) -> Result<Client, CommandError> {
        self.connect_as("lockd".to_owned()).await
    }

    /// A client of that daemon, by the name that others are to see.
    pub(super) async fn connect_as(&self, name: String) -> Result<Client, CommandError> {
        let client = Client::builder().addrs(&self.addr).namespace(&self.namespace).name(name);
        client.connect().await.map_err(|error| {
            let failure = CommandError::from(error);
            if failure.exit != Exit::Unavailable {
                return failure;
            }
            let hint = "is a daemon running? start one with `lockd serve`, or name it with --addr";
            CommandError::new(failure.exit, format!("{failure}; {hint}"))
        })
    }
}
