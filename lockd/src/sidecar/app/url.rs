//! The app behind a URL, for pods whose containers do not share their processes: it lives for as long as it
//! answers, whatever it answers.
//!
//! ```text
//! starting ── answers ──► alive ── refuses, or is silent ──► dead ── answers ──► alive
//! ```
//!
//! A status says nothing of life: an app that drains may well answer 503, and is still at what it leads.

use std::{error::Error, str::FromStr, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{
        HeaderValue, Uri,
        header::{CONNECTION, USER_AGENT},
        uri::Scheme,
    },
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::AppLife;
use crate::{sidecar::metrics, telemetry::tasks::Tasks};

/// The pause between an answer and the next question.
const PAUSE: Duration = Duration::from_secs(1);

/// How long an app that lives may take to answer.
const SILENCE: Duration = Duration::from_secs(3);

/// Where the app is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AppUrl(Uri);

/// An app that is asked again and again.
#[derive(Debug)]
pub(in crate::sidecar) struct WatchedUrl {
    /// The latest life, once there was one.
    latest: watch::Receiver<Option<AppLife>>,
}

impl FromStr for AppUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "write a URL of the app in this pod, such as http://127.0.0.1:8080/livez";
        let url: Uri = text.parse().map_err(|error| format!("{error}: {hint}"))?;
        let authority = url.authority().ok_or(hint)?.as_str();
        if url.scheme() == Some(&Scheme::HTTPS) {
            return Err(format!("https is not asked, as loopback needs none: {hint}"));
        }
        let names_a_port = url.host().is_some_and(|host| host.len() < authority.len());
        let is_usable = url.scheme() == Some(&Scheme::HTTP)
            && url.host().is_some_and(|host| !host.is_empty())
            // Neither a password, which would be logged, nor a port that is none.
            && !authority.contains('@')
            && names_a_port == url.port().is_some();
        if is_usable { Ok(Self(url)) } else { Err(hint.to_owned()) }
    }
}

impl AppUrl {
    /// Asks until the end.
    pub(super) fn watch(self, tasks: &Tasks, end: CancellationToken) -> WatchedUrl {
        // A connection for each question: that a kept one is closed says nothing of life.
        let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        let (lives, latest) = watch::channel(None);
        metrics::app_is_silent();
        tasks.spawn("app", async move {
            end.run_until_cancelled(self.follow(&http, lives)).await;
        });
        WatchedUrl { latest }
    }

    async fn follow(
        &self,
        http: &Client<HttpConnector, Body>,
        lives: watch::Sender<Option<AppLife>>,
    ) {
        tracing::info!(url = %self.0, "not campaigning before the app answers");
        loop {
            while self.ask(http).await.is_err() {
                sleep(PAUSE).await;
            }
            tracing::info!(url = %self.0, "the app answers");
            metrics::app_lives();
            let life = AppLife::new();
            // Whatever ends this task ends the life as well.
            let ends = life.clone().drop_guard();
            lives.send_replace(Some(life));
            let why = self.falls_silent(http).await;
            drop(ends);
            metrics::app_is_silent();
            tracing::warn!(url = %self.0, why, "the app answers no longer: taken for dead");
        }
    }

    /// Waits until it does not answer, and says why.
    async fn falls_silent(&self, http: &Client<HttpConnector, Body>) -> String {
        loop {
            sleep(PAUSE).await;
            if let Err(why) = self.ask(http).await {
                return why;
            }
        }
    }

    /// Asks once. No body is read, and no redirect followed.
    async fn ask(&self, http: &Client<HttpConnector, Body>) -> Result<(), String> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = self.0.clone();
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(USER_AGENT, HeaderValue::from_static("lockd-sidecar"));
        match timeout(SILENCE, http.request(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(cause(&error)),
            Err(_) => Err(format!("no answer for {SILENCE:?}")),
        }
    }
}

/// What an error goes back to: hyper's own text says only in which step it was.
fn cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl WatchedUrl {
    /// Waits until it answers; `None` when it is asked no longer. Cancel safe.
    pub(super) async fn lives(&self) -> Option<AppLife> {
        let lives = |life: &Option<AppLife>| life.as_ref().is_some_and(|life| !life.is_cancelled());
        self.latest.clone().wait_for(lives).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_http_and_names_who_is_asked() {
        for right in ["http://127.0.0.1:8080/livez?full=1", "http://localhost", "http://[::1]:80/"]
        {
            assert!(right.parse::<AppUrl>().is_ok(), "{right}");
        }
        for wrong in [
            "",
            "/livez",
            "127.0.0.1:8080",
            "ftp://127.0.0.1/",
            "http://",
            "http://:80/",
            "http://127.0.0.1:/",
            "http://127.0.0.1:65536/",
            "http://user:secret@127.0.0.1:8080/",
        ] {
            let why = wrong.parse::<AppUrl>().unwrap_err();
            assert!(why.contains("such as http://"), "{wrong}: {why}");
        }
        let why = "https://127.0.0.1/".parse::<AppUrl>().unwrap_err();
        assert!(why.starts_with("https is not asked") && why.contains("such as http://"), "{why}");
    }
}
