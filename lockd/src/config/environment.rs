//! The environment's layer: which variables are the daemon's, and which are misspelt.

use figment::{
    Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

use super::{ConfigError, ENV, invalid};

/// The keys of [`super::Settings`].
const KEYS: [&str; 22] = [
    "store",
    "data_dir",
    "etcd_endpoints",
    "etcd_prefix",
    "etcd_user",
    "etcd_password",
    "etcd_password_file",
    "etcd_ca",
    "etcd_cert",
    "etcd_key",
    "etcd_mark_file",
    "listen",
    "http_listen",
    "drain",
    "max_waiters",
    "max_entries",
    "max_sessions",
    "name",
    "log",
    "log_format",
    "metrics_lock_names",
    "otlp_endpoint",
];

/// Variables with our prefix that are not the daemon's own: those of clients (whose layer it has), of the commands that
/// `lockd lock` runs, and of tests.
const OTHERS: [&str; 10] = [
    "addr",
    "bin",
    "config",
    "deadline_propagation",
    "fencing_token",
    "lock_name",
    "name_prefix",
    "namespace",
    "session_id",
    "ttl",
];

/// The most letters by which a variable is still a misspelling of another.
const MISSPELT: usize = 3;

/// The layer. Every value is a text here, also a password that looks like a number; an empty
/// one is as good as none.
pub(super) struct Environment;

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut values = Dict::new();
        for (key, value) in ours() {
            let text = value.into_string();
            let text = text.map_err(|_| {
                figment::Error::from(format!("{ENV}{} is not UTF-8", key.to_ascii_uppercase()))
            })?;
            if !text.is_empty() {
                values.insert(key, Value::from(text));
            }
        }
        Ok(Profile::Default.collect(values))
    }
}

/// A misspelt variable would otherwise be as good as none.
///
/// # Errors
/// Names the first one, and what it may have been meant to be.
pub(super) fn refuse_unknown() -> Result<(), ConfigError> {
    let Some((key, _)) = ours().find(|(key, _)| !KEYS.contains(&key.as_str())) else {
        return Ok(());
    };
    let variable = |key: &str| format!("{ENV}{}", key.to_ascii_uppercase());
    let advice = match meant(&key) {
        Some(known) => format!("did you mean {}?", variable(known)),
        None => "see `lockd config` for the keys".to_owned(),
    };
    Err(invalid(format!("{} is no variable of lockd's: {advice}", variable(&key))))
}

/// Our variables, by key.
fn ours() -> impl Iterator<Item = (String, std::ffi::OsString)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let key = name.to_str()?.strip_prefix(ENV)?.to_ascii_lowercase();
        is_ours(&key).then_some((key, value))
    })
}

fn is_ours(key: &str) -> bool {
    !OTHERS.contains(&key) && !key.starts_with("test_") && !is_of_a_service(key)
}

/// A Kubernetes Service named `lockd`, or `lockd-…`, puts its address into every pod beside it:
/// `LOCKD_SERVICE_HOST`, `LOCKD_PORT_7420_TCP_ADDR` and so on.
fn is_of_a_service(key: &str) -> bool {
    let framed = format!("_{key}_");
    ["_service_host_", "_service_port_", "_port_"].iter().any(|mark| framed.contains(mark))
}

fn meant(key: &str) -> Option<&'static str> {
    let by_distance = KEYS.into_iter().map(|known| (distance(key, known), known));
    by_distance.min().filter(|(distance, _)| *distance <= MISSPELT).map(|(_, known)| known)
}

/// How many letters to insert, delete or replace (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut last = i + 1;
        let mut next = vec![last];
        for ((b, diagonal), above) in to.chars().zip(&row).zip(row.iter().skip(1)) {
            last = (above + 1).min(last + 1).min(diagonal + usize::from(a != b));
            next.push(last);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_known() {
        let settings = serde_json::to_value(super::super::Settings::default()).unwrap();
        for key in settings.as_object().unwrap().keys() {
            assert!(KEYS.contains(&key.as_str()) && is_ours(key), "{key}");
        }
    }

    #[test]
    fn a_misspelling_is_recognised() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(meant("data_dri"), Some("data_dir"));
        assert_eq!(meant("something_else"), None);
    }

    #[test]
    fn variables_of_a_service_are_not_ours() {
        for key in ["port", "service_host", "service_port_grpc", "port_7420_tcp_addr", "etcd_port"]
        {
            assert!(!is_ours(key), "{key}");
        }
    }
}
