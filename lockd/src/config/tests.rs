//! Each layer, what is unknown, and what contradicts itself. The environment is that of the
//! whole process, so figment's jail takes it for one test at a time.

#![allow(clippy::result_large_err, reason = "the error of figment's jail is what it is")]

use figment::Jail;

use super::*;

fn load(flags: &Flags) -> Result<Settings, String> {
    Settings::load(flags).map_err(|error| error.to_string())
}

fn source_of(flags: &Flags, key: &str) -> String {
    let values = Settings::explain(flags).expect("a valid configuration");
    values.into_iter().find(|value| value.key == key).expect("the key").source
}

#[test]
fn each_layer_overrides_the_one_below() {
    Jail::expect_with(|jail| {
        jail.create_file("lockd.toml", "drain = '1s'\nname = 'file'\nlog = 'file'")?;
        jail.set_env("LOCKD_NAME", "environment");
        jail.set_env("LOCKD_LOG", "environment");
        let flags = Flags {
            config: Some("lockd.toml".into()),
            log: Some("flag".to_owned()),
            ..Flags::default()
        };
        let settings = load(&flags)?;
        assert_eq!(settings.drain, Duration::from_secs(1));
        assert_eq!((settings.name.as_str(), settings.log.as_str()), ("environment", "flag"));
        assert_eq!(settings.data_dir, PathBuf::from("./lockd-data"));
        assert!(source_of(&flags, "drain").ends_with("lockd.toml"));
        assert_eq!(source_of(&flags, "name"), "environment (LOCKD_NAME)");
        assert_eq!(source_of(&flags, "log"), "flag (--log)");
        assert_eq!(source_of(&flags, "store"), "default");
        Ok(())
    });
}

#[test]
fn what_is_unknown_is_an_error() {
    Jail::expect_with(|jail| {
        jail.create_file("lockd.toml", "data_dri = '/tmp'")?;
        let flags = Flags { config: Some("lockd.toml".into()), ..Flags::default() };
        assert!(load(&flags).unwrap_err().contains("data_dri"));
        jail.set_env("LOCKD_DATA_DRI", "/tmp");
        assert!(load(&Flags::default()).unwrap_err().contains("LOCKD_DATA_DRI"));
        Ok(())
    });
}

#[test]
fn clients_variables_are_left_alone() {
    Jail::expect_with(|jail| {
        jail.set_env("LOCKD_ADDR", "http://127.0.0.1:1");
        jail.set_env("LOCKD_FENCING_TOKEN", "7");
        jail.set_env("LOCKD_TEST_ETCD_IMAGE", "etcd");
        load(&Flags::default())?;
        Ok(())
    });
}

#[test]
fn contradictions_say_what_to_do() {
    Jail::expect_with(|jail| {
        let etcd = Flags { store: Some(StoreKind::Etcd), ..Flags::default() };
        assert!(load(&etcd).unwrap_err().contains("--etcd-endpoints"));
        jail.set_env("LOCKD_ETCD_ENDPOINTS", "http://a:1, http://b:2");
        assert!(load(&Flags::default()).unwrap_err().contains("--store etcd"));
        assert_eq!(load(&etcd)?.etcd_endpoints, ["http://a:1", "http://b:2"]);
        let half = Flags { etcd_cert: Some("cert.pem".into()), ..etcd };
        assert!(load(&half).unwrap_err().contains("etcd_key"));
        Ok(())
    });
}

#[test]
fn every_variable_is_a_text() {
    Jail::expect_with(|jail| {
        jail.set_env("LOCKD_NAME", "42");
        jail.set_env("LOCKD_DRAIN", "");
        jail.set_env("LOCKD_METRICS_LOCK_NAMES", "true");
        let settings = load(&Flags::default())?;
        assert_eq!((settings.name.as_str(), settings.drain), ("42", Duration::from_secs(10)));
        assert!(settings.metrics_lock_names);
        jail.set_env("LOCKD_METRICS_LOCK_NAMES", "perhaps");
        assert!(load(&Flags::default()).unwrap_err().contains("metrics_lock_names"));
        Ok(())
    });
}

#[test]
fn keys_in_etcd_are_kept_apart_and_credentials_off_plain_connections() {
    Jail::expect_with(|_| {
        let etcd = |prefix: &str| Flags {
            store: Some(StoreKind::Etcd),
            etcd_endpoints: vec!["http://a:1".to_owned()],
            etcd_prefix: Some(prefix.to_owned()),
            ..Flags::default()
        };
        assert!(load(&etcd("lockd")).unwrap_err().contains("end in '/'"));
        let tls = Flags { etcd_ca: Some("ca.pem".into()), ..etcd("lockd/") };
        assert!(load(&tls).unwrap_err().contains("https://"));
        Ok(())
    });
}

#[test]
fn a_collector_has_an_address_with_its_scheme() {
    Jail::expect_with(|_| {
        let to = |url: &str| Flags { otlp_endpoint: Some(url.to_owned()), ..Flags::default() };
        assert!(load(&to("http://collector:4317")).is_ok());
        assert!(load(&to("collector:4317")).unwrap_err().contains("http://HOST:4317"));
        Ok(())
    });
}

#[test]
fn addresses_of_etcd_are_checked() {
    for good in ["http://a:2379", "https://10.0.0.1:2379/", "a:2379", "http://[::1]:2379"] {
        assert!(is_endpoint(good), "{good}");
    }
    for bad in ["", "ht tp://a", "ftp://a:1", "http://", "http://a:1/path", "a b"] {
        assert!(!is_endpoint(bad), "{bad}");
    }
}

#[test]
fn what_no_log_can_use_is_refused() {
    Jail::expect_with(|jail| {
        let two_words = Flags { accept_restored: Some("two words".to_owned()), ..Flags::default() };
        assert!(load(&two_words).unwrap_err().contains("accept_restored"));
        let short = Flags { etcd_lease: Some(Duration::from_secs(1)), ..Flags::default() };
        assert!(load(&short).unwrap_err().contains("etcd_lease"));
        assert!("1s".parse::<Compaction>().is_err() && "never".parse::<Compaction>().is_err());
        jail.create_file("lockd.toml", "etcd_compaction = 'off'\netcd_lease = '9s'")?;
        jail.set_env("LOCKD_ACCEPT_RESTORED", "monday");
        jail.set_env("LOCKD_ETCD_ENDPOINTS", "http://a:1");
        let flags = Flags { config: Some("lockd.toml".into()), ..Flags::default() };
        let flags = Flags { store: Some(StoreKind::Etcd), ..flags };
        let etcd = load(&flags)?.etcd().map_err(|error| error.to_string())?;
        assert_eq!((etcd.lease, etcd.history_kept), (Duration::from_secs(9), None));
        assert_eq!(etcd.accept_restored.as_deref(), Some("monday"));
        let flags = Flags { etcd_compaction: "5m".parse().ok(), ..flags };
        let etcd = load(&flags)?.etcd().map_err(|error| error.to_string())?;
        assert_eq!(etcd.history_kept, Some(Duration::from_secs(300)));
        Ok(())
    });
}

#[test]
fn a_password_is_never_shown() {
    Jail::expect_with(|jail| {
        jail.set_env("LOCKD_ETCD_ENDPOINTS", "http://a:1");
        jail.set_env("LOCKD_ETCD_PASSWORD", "hunter2");
        let etcd = Flags {
            store: Some(StoreKind::Etcd),
            etcd_user: Some("lockd".to_owned()),
            ..Flags::default()
        };
        let shown = format!("{:?} {:?}", Settings::explain(&etcd), load(&etcd)?);
        assert!(shown.contains("***") && !shown.contains("hunter2"), "{shown}");
        let user = load(&etcd)?.etcd().map_err(|error| error.to_string())?.user;
        assert_eq!(user, Some(("lockd".to_owned(), "hunter2".to_owned())));
        Ok(())
    });
}
