//! HTTP calls by `reqwest` that carry a context.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::{Client, Request, RequestBuilder, Response};

use crate::{
    context::{Cause, Context},
    error::{Error, ErrorKind, Fault, Timed},
    trace,
};

const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How much earlier than its caller a server is to give up, if nothing else is chosen: so that
/// its answer is there in time.
const RESERVE: Duration = Duration::from_millis(5);

/// A request, to be sent in a context. Made by [`Context::reqwest`].
#[derive(Debug)]
#[must_use = "nothing is sent before `send`"]
pub struct HttpCall {
    ctx: Context,
    request: RequestBuilder,
    header: HeaderName,
    reserve: Duration,
}

impl Context {
    /// A request of `reqwest`, to be sent in this context: with what is left as
    /// `x-request-timeout-ms`, the trace as `traceparent` and the request's id as `x-request-id`.
    /// Headers that it has already stay, and so does a shorter timeout.
    ///
    /// ```no_run
    /// # async fn example(
    /// #     http: reqwest::Client, ctx: lockd_client::Context,
    /// # ) -> Result<(), lockd_client::Error> {
    /// let answer = ctx.reqwest(http.get("http://stock.internal/items/7")).send().await?;
    /// # Ok(()) }
    /// ```
    pub fn reqwest(&self, request: RequestBuilder) -> HttpCall {
        HttpCall { ctx: self.clone(), request, header: TIMEOUT, reserve: RESERVE }
    }
}

impl HttpCall {
    /// Sends what is left, in milliseconds, in another header.
    pub fn timeout_header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// Has the server give up by this much earlier than the context ends. Default: 5 ms.
    pub fn reserve(mut self, reserve: Duration) -> Self {
        self.reserve = reserve;
        self
    }

    /// Sends the request and waits for the head of the answer, whatever its status. The body can
    /// be read until the context's deadline; to have cancellation end that too, read it within
    /// [`Context::run`].
    ///
    /// # Errors
    /// [`ErrorKind::DeadlineExceeded`] and [`ErrorKind::Cancelled`] when the context ends;
    /// [`ErrorKind::Unavailable`] if there is no connection; [`ErrorKind::InvalidArgument`] if the
    /// request is none; [`ErrorKind::Failed`] for all else. When
    /// [`may_have_applied`](Error::may_have_applied), the request was on its way. The text names
    /// the method and the URL without its query.
    ///
    /// # Cancel safety
    /// Dropping the future ends the call. The server may have been at it already.
    pub async fn send(self) -> Result<Response, Error> {
        let (client, request) = self.request.build_split();
        let target = request.as_ref().ok().map(target);
        let timed = Timed::begin(&self.ctx, "http call", target.as_deref());
        let request = request.map_err(|error| timed.failed(fault(&self.ctx, error)))?;
        let call = Self::call(&self.ctx, &client, request, self.header, self.reserve);
        call.await.map_err(|fault| timed.failed(fault))
    }

    async fn call(
        ctx: &Context,
        client: &Client,
        mut request: Request,
        header: HeaderName,
        reserve: Duration,
    ) -> Result<Response, Fault> {
        let headers = request.headers_mut();
        trace::write(ctx, headers);
        let id = ctx.request_id().and_then(|id| HeaderValue::from_str(id).ok());
        if let Some(id) = id.filter(|_| !headers.contains_key(REQUEST_ID)) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(left) = ctx.budget() {
            let told = u64::try_from(left.saturating_sub(reserve).as_millis()).unwrap_or(u64::MAX);
            headers.entry(header).or_insert_with(|| HeaderValue::from(told));
            let timeout = request.timeout().map_or(left, |timeout| left.min(*timeout));
            *request.timeout_mut() = Some(timeout);
        }
        match ctx.bound("http", client.execute(request)).await {
            Ok(answer) => answer.map_err(|error| fault(ctx, error)),
            // It may have been sent.
            Err(cause) => Err(Fault { may_have_applied: true, ..Fault::ended(&cause) }),
        }
    }
}

/// The method and where it goes, without what may be a secret.
fn target(request: &Request) -> String {
    let mut url = request.url().clone();
    url.set_query(None);
    url.set_fragment(None);
    // It can't fail for a URL that a request was made for.
    url.set_username("").ok();
    url.set_password(None).ok();
    format!("{} {url}", request.method())
}

fn fault(ctx: &Context, error: reqwest::Error) -> Fault {
    let ended = error.is_timeout() && ctx.budget().is_some_and(|left| left.is_zero());
    let kind = match () {
        () if ended => Fault::ended(&Cause::DeadlineExceeded).kind,
        () if error.is_builder() => ErrorKind::InvalidArgument,
        () if error.is_connect() => ErrorKind::Unavailable,
        () => ErrorKind::Failed,
    };
    let may_have_applied = !error.is_builder() && !error.is_connect();
    Fault { kind, may_have_applied, ..Fault::failed(error.without_url()) }
}
