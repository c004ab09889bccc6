//! The daemon's configuration: flag, else environment, else file, else default. Read and
//! checked whole before a port opens.

mod compaction;
mod environment;
mod secret;
mod texts;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub(crate) use compaction::Compaction;
use environment::Environment;
use figment::{
    Figment,
    providers::{Format as _, Serialized, Toml},
};
use secret::Secret;
use serde::{Deserialize, Serialize};

use crate::{
    core::Limits,
    log::{
        etcd::{EtcdConfig, EtcdTls},
        is_restore_name,
    },
    telemetry::{logs::LogFormat, metrics::LockNames},
};

/// What every environment variable of ours starts with.
const ENV: &str = "LOCKD_";

/// Which store to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoreKind {
    /// A folder on this machine
    Embedded,
    /// An etcd cluster
    Etcd,
}

/// The effective configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Which store to use.
    pub store: StoreKind,
    /// The folder of the embedded store.
    pub data_dir: PathBuf,
    /// The members of the etcd cluster.
    #[serde(deserialize_with = "texts::comma_separated")]
    pub etcd_endpoints: Vec<String>,
    /// What all keys in etcd start with.
    pub etcd_prefix: String,
    /// The user at etcd.
    pub etcd_user: Option<String>,
    /// Its password.
    etcd_password: Option<Secret>,
    /// A file with its password.
    pub etcd_password_file: Option<PathBuf>,
    /// A file with the authority that signed etcd's certificates, in PEM.
    pub etcd_ca: Option<PathBuf>,
    /// A file with lockd's certificate for etcd, in PEM.
    pub etcd_cert: Option<PathBuf>,
    /// A file with its key, in PEM.
    pub etcd_key: Option<PathBuf>,
    /// The TTL of the replica's lease at etcd.
    #[serde(with = "humantime_serde")]
    pub etcd_lease: Duration,
    /// How old etcd's history has to be before lockd compacts it.
    pub etcd_compaction: Compaction,
    /// The name of a restore from a backup that is to be gone on with.
    pub accept_restored: Option<String>,
    /// A file beside etcd that says how far its log had come.
    pub etcd_mark_file: Option<PathBuf>,
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where health is served over HTTP.
    pub http_listen: SocketAddr,
    /// Time limit for what is in flight to finish when the daemon stops.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// The most entries in one lock's queue.
    #[serde(deserialize_with = "texts::parsed")]
    pub max_waiters: usize,
    /// The most requests that a session may have open, held locks included.
    #[serde(deserialize_with = "texts::parsed")]
    pub max_entries: usize,
    /// The most sessions in the store, beyond which this replica opens no more.
    #[serde(deserialize_with = "texts::parsed")]
    pub max_sessions: usize,
    /// The name of this replica.
    pub name: String,
    /// Which log lines to write.
    pub log: String,
    /// How to write them.
    pub log_format: LogFormat,
    /// Whether a few series have the names of locks.
    #[serde(deserialize_with = "texts::parsed")]
    pub metrics_lock_names: bool,
    /// Where traces are sent, if anywhere.
    pub otlp_endpoint: Option<String>,
}

/// The flags that set it.
#[derive(Debug, Default, clap::Args, Serialize)]
pub(crate) struct Flags {
    /// A TOML file with any of these values, such as `data_dir = "/var/lib/lockd"`
    #[arg(long, value_name = "FILE", env = "LOCKD_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Where the state is kept [default: embedded]
    #[arg(long, value_name = "STORE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreKind>,

    /// The folder of the embedded store [default: ./lockd-data]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,

    /// The members of the etcd cluster, separated by commas
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub etcd_endpoints: Vec<String>,

    /// What all keys in etcd start with [default: lockd/]
    #[arg(long, value_name = "PREFIX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_prefix: Option<String>,

    /// The user at etcd; its password comes from LOCKD_ETCD_PASSWORD or a file
    #[arg(long, value_name = "USER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_user: Option<String>,

    /// A file with the password
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_password_file: Option<PathBuf>,

    /// The authority that signed etcd's certificates, in PEM
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_ca: Option<PathBuf>,

    /// lockd's certificate for etcd, in PEM
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_cert: Option<PathBuf>,

    /// The key of that certificate, in PEM
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_key: Option<PathBuf>,

    /// The TTL of this replica's lease at etcd, 2 s or more [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(skip_serializing_if = "Option::is_none", with = "humantime_serde::option")]
    pub etcd_lease: Option<Duration>,

    /// Compact etcd's history once it is this old; `off` where others share the cluster [default: 1m]
    #[arg(long, value_name = "AGE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_compaction: Option<Compaction>,

    /// Go on with a folder or an etcd that was restored from a backup: all sessions end, and tokens jump
    /// ahead. A name for the restore, such as its date; the same name accepts nothing a second time
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_restored: Option<String>,

    /// A file beside etcd by which an etcd that was restored from a backup is recognised [default: none]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_mark_file: Option<PathBuf>,

    /// Where to serve gRPC; port 0 picks a free one [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,

    /// Where to serve health over HTTP; port 0 picks a free one [default: 127.0.0.1:7421]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<SocketAddr>,

    /// How long what is in flight may take to finish on SIGTERM [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(skip_serializing_if = "Option::is_none", with = "humantime_serde::option")]
    pub drain: Option<Duration>,

    /// The most entries in one lock's queue [default: 10000]
    #[arg(long, value_name = "N", value_parser = positive)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_waiters: Option<usize>,

    /// The most requests that a session may have open, held locks included [default: 10000]
    #[arg(long, value_name = "N", value_parser = positive)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_entries: Option<usize>,

    /// The most sessions in the store; beyond, this replica opens no more [default: 100000]
    #[arg(long, value_name = "N", value_parser = positive)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<usize>,

    /// The name of this replica [default: its host and process id]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,

    /// Which log lines to write, such as `info` or `lockd=debug` [default: info]
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,

    /// How to write them [default: text]
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,

    /// Count by lock as well, for the first 500 that are granted
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub metrics_lock_names: bool,

    /// Where to send traces by OTLP over gRPC, such as http://collector:4317 [default: nowhere]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A value is unknown, missing or malformed.
    #[error("configuration: {0}")]
    Invalid(String),
    /// A file that it names can't be read.
    #[error("{key} {path}: {error}", path = path.display())]
    File {
        /// Which value.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// A value and where it comes from.
#[derive(Debug)]
pub(crate) struct SourcedValue {
    /// Its key, as in the file.
    pub key: String,
    /// The value; `***` for a secret.
    pub value: String,
    /// "flag", "environment", a file's name, or "default".
    pub source: String,
}

fn invalid(text: impl Into<String>) -> ConfigError {
    ConfigError::Invalid(text.into())
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: StoreKind::Embedded,
            data_dir: "./lockd-data".into(),
            etcd_endpoints: vec![],
            etcd_prefix: "lockd/".to_owned(),
            etcd_user: None,
            etcd_password: None,
            etcd_password_file: None,
            etcd_ca: None,
            etcd_cert: None,
            etcd_key: None,
            etcd_lease: Duration::from_secs(5),
            etcd_compaction: Compaction::After(Duration::from_secs(60)),
            accept_restored: None,
            etcd_mark_file: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 7420)),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 7421)),
            drain: Duration::from_secs(10),
            max_waiters: Limits::default().waiters_per_lock,
            max_entries: Limits::default().entries_per_session,
            max_sessions: Limits::default().sessions,
            name: default_name(),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            metrics_lock_names: false,
            otlp_endpoint: None,
        }
    }
}

fn default_name() -> String {
    let host = rustix::system::uname();
    format!("{}-{}", host.nodename().to_string_lossy(), std::process::id())
}

impl Settings {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// An unknown key, a malformed value, or values that contradict one another.
    pub(crate) fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let settings = layers(flags)?.extract::<Self>().map_err(describe)?;
        settings.check()?;
        Ok(settings)
    }

    /// Every value, and where it comes from.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub(crate) fn explain(flags: &Flags) -> Result<Vec<SourcedValue>, ConfigError> {
        let settings = Self::load(flags)?;
        let layers = layers(flags)?;
        let shown = serde_json::to_value(&settings).map_err(|error| invalid(error.to_string()))?;
        let serde_json::Value::Object(shown) = shown else { return Ok(vec![]) };
        let explained = shown.into_iter().map(|(key, value)| SourcedValue {
            source: source(&layers, &key),
            value: show(&value),
            key,
        });
        Ok(explained.collect())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let set = |given: bool, text: &str| if given { Err(invalid(text)) } else { Ok(()) };
        let etcd = self.store == StoreKind::Etcd;
        set(
            etcd && self.etcd_endpoints.is_empty(),
            "store = etcd needs etcd_endpoints: give --etcd-endpoints http://HOST:2379,…",
        )?;
        set(
            !etcd && !self.etcd_endpoints.is_empty(),
            "etcd_endpoints are given, but the store is embedded: add --store etcd, or take them out",
        )?;
        set(
            self.etcd_cert.is_some() != self.etcd_key.is_some(),
            "etcd_cert and etcd_key belong together: give both or neither",
        )?;
        let passwords = [self.etcd_password.is_some(), self.etcd_password_file.is_some()];
        set(
            passwords == [true, true],
            "etcd_password and etcd_password_file are both given: choose one",
        )?;
        let password = passwords != [false, false];
        set(
            password != self.etcd_user.is_some(),
            "etcd_user and its password belong together: give both or neither",
        )?;
        set(
            self.etcd_prefix.is_empty(),
            "etcd_prefix is empty: lockd must not own every key of the cluster",
        )?;
        set(
            !self.etcd_prefix.ends_with('/'),
            "etcd_prefix does not end in '/': it would be a prefix of others as well",
        )?;
        if let Some(url) = self.etcd_endpoints.iter().find(|url| !is_endpoint(url)) {
            return Err(invalid(format!(
                "etcd_endpoints has {url:?}, which is no address: give http://HOST:PORT"
            )));
        }
        let is_url = |url: &str| url.contains("://") && is_endpoint(url);
        if let Some(url) = self.otlp_endpoint.as_ref().filter(|url| !is_url(url)) {
            return Err(invalid(format!(
                "otlp_endpoint is {url:?}, which is no address: give http://HOST:4317"
            )));
        }
        let limits = [self.max_waiters, self.max_entries, self.max_sessions];
        set(
            limits.contains(&0),
            "max_waiters, max_entries or max_sessions is 0: nobody could hold anything",
        )?;
        set(
            self.etcd_lease < Duration::from_secs(2),
            "etcd_lease is less than 2s, the shortest lease that etcd grants",
        )?;
        set(
            self.accept_restored.as_deref().is_some_and(|name| !is_restore_name(name)),
            "accept_restored is no name of a restore: give one word of at most 64 characters, such as 2026-11-27",
        )?;
        let tls = self.etcd_ca.is_some() || self.etcd_cert.is_some();
        let plain = self.etcd_endpoints.iter().any(|url| url.starts_with("http://"));
        set(
            tls && plain,
            "etcd_ca or etcd_cert is given, but an endpoint is http://: make it https://",
        )?;
        Ok(())
    }

    /// How much there may be.
    #[must_use]
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            waiters_per_lock: self.max_waiters,
            entries_per_session: self.max_entries,
            sessions: self.max_sessions,
        }
    }

    /// Whether metrics have the names of locks.
    #[must_use]
    pub(crate) fn lock_names(&self) -> LockNames {
        if self.metrics_lock_names { LockNames::Labelled } else { LockNames::Left }
    }

    /// How etcd is reached, the files that the configuration names read.
    ///
    /// # Errors
    /// A file can't be read.
    pub(crate) fn etcd(&self) -> Result<EtcdConfig, ConfigError> {
        let password = match (&self.etcd_password, &self.etcd_password_file) {
            (Some(password), _) => Some(password.reveal().to_owned()),
            (None, Some(file)) => {
                Some(read_text("etcd_password_file", file)?.trim_end().to_owned())
            }
            (None, None) => None,
        };
        let ca_pem = self.etcd_ca.as_ref().map(|file| read("etcd_ca", file)).transpose()?;
        let identity_pem = match (&self.etcd_cert, &self.etcd_key) {
            (Some(cert), Some(key)) => Some((read("etcd_cert", cert)?, read("etcd_key", key)?)),
            _ => None,
        };
        let https = self.etcd_endpoints.iter().any(|url| url.starts_with("https"));
        let tls = https || ca_pem.is_some() || identity_pem.is_some();
        let (endpoints, prefix) = (self.etcd_endpoints.clone(), self.etcd_prefix.clone());
        Ok(EtcdConfig {
            user: self.etcd_user.clone().zip(password),
            tls: tls.then_some(EtcdTls { ca_pem, identity_pem }),
            lease: self.etcd_lease,
            history_kept: self.etcd_compaction.after(),
            accept_restored: self.accept_restored.clone(),
            mark_file: self.etcd_mark_file.clone(),
            ..EtcdConfig::new(endpoints, &prefix)
        })
    }
}

fn positive(text: &str) -> Result<usize, String> {
    let number = text.parse::<std::num::NonZeroUsize>();
    number.map(std::num::NonZeroUsize::get).map_err(|error| error.to_string())
}

/// Whether this is an address that etcd can be asked at; the scheme may be left out.
fn is_endpoint(url: &str) -> bool {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.strip_suffix('/').unwrap_or(rest).parse::<http::uri::Authority>();
    ["http", "https"].contains(&scheme) && authority.is_ok_and(|it| !it.host().is_empty())
}

fn read(key: &'static str, path: &PathBuf) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|error| ConfigError::File { key, path: path.clone(), error })
}

fn read_text(key: &'static str, path: &PathBuf) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::File {
        key,
        path: path.clone(),
        error,
    })
}

fn layers(flags: &Flags) -> Result<Figment, ConfigError> {
    let mut layers = Figment::from(Serialized::defaults(Settings::default()));
    if let Some(path) = &flags.config {
        read_text("config", path)?;
        layers = layers.merge(Toml::file_exact(path));
    }
    environment::refuse_unknown()?;
    Ok(layers.merge(Environment).merge(Serialized::globals(flags)))
}

fn source(layers: &Figment, key: &str) -> String {
    let Some(metadata) = layers.find_metadata(key) else { return "default".to_owned() };
    match &metadata.source {
        Some(figment::Source::File(path)) => path.display().to_string(),
        _ if metadata.name.contains("environment") => {
            format!("environment ({ENV}{})", key.to_ascii_uppercase())
        }
        _ if metadata.name.contains("Flags") => format!("flag (--{})", key.replace('_', "-")),
        _ => "default".to_owned(),
    }
}

fn show(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn describe(error: figment::Error) -> ConfigError {
    let all: Vec<_> = error.into_iter().map(|error| error.to_string()).collect();
    invalid(all.join("; "))
}

#[cfg(test)]
mod tests;
