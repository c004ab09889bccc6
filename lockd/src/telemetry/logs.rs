//! What is logged, and how: text or JSON on stderr, by a filter that can be changed while it runs.

use std::io::IsTerminal as _;

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use serde::{Deserialize, Serialize};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON document a line
    Json,
}

/// The filter of this process' log. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Logs(reload::Handle<EnvFilter, Registry>);

/// Why what is logged can't be what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogSetupError {
    /// It is no filter.
    #[error("{0:?} is no filter such as `info` or `lockd=debug`: {1}")]
    Filter(String, #[source] tracing_subscriber::filter::ParseError),
    /// There is no log to change any more, or one was there before.
    #[error("the log can't be set up")]
    Unset(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Logs {
    /// Logs from now on, for the whole process.
    ///
    /// # Errors
    /// The filter is none, or something else logs already.
    pub(crate) fn start(filter: &str, format: LogFormat) -> Result<Self, LogSetupError> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let colours = std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal();
        let lines = match format {
            LogFormat::Text => lines.with_ansi(colours).boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        subscriber.try_init().map_err(|error| LogSetupError::Unset(error.into()))?;
        Ok(Self(handle))
    }

    /// What is logged now.
    #[must_use]
    pub(crate) fn filter(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Logs by another filter from now on.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn set(&self, filter: &str) -> Result<(), LogSetupError> {
        let filter = parse(filter)?;
        self.0.reload(filter).map_err(|error| LogSetupError::Unset(error.into()))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogSetupError> {
    filter.trim().parse().map_err(|error| LogSetupError::Filter(filter.to_owned(), error))
}
