//! Unary calls: one cached connection, bounded by a deadline, tried at the next address when
//! one does not answer.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lockd_proto::{
    retry::{Policy, Retry},
    v1::{StatusRequest, admin_service_client::AdminServiceClient},
};
use tonic::{Request, Response, Status};
use tower_layer::Layer as _;

use super::Client;
use crate::{
    context::{Cause, Context},
    error::{Call, Error, ErrorKind, Fault, Spent, is_answer},
    grpc::{DeadlineLayer, DeadlineService},
};

/// A connection whose calls carry what is left of their context.
pub(crate) type Channel = DeadlineService<tonic::transport::Channel>;

/// How often a call that no server could serve is made again, within its time.
const TRIES: u32 = 10;

/// The connection that unary calls share, with the turn of its address.
#[derive(Debug, Default)]
pub(crate) struct Unary {
    /// A std mutex: it is held to copy a handle only, never across an await.
    channel: Mutex<Option<(usize, Channel)>>,
}

/// Whether a call may be made twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Harmless,
    /// Only if the first one was not applied for certain.
    IfNotApplied,
}

impl Unary {
    fn cached(&self) -> Option<(usize, Channel)> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, channel: Option<(usize, Channel)>) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = channel;
    }
}

impl Client {
    /// Makes a call, and makes it again elsewhere if no server could serve it.
    pub(crate) async fn unary<T, F>(
        &self,
        operation: Call,
        repeat: Repeat,
        make: impl Fn(Channel, Metadata) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let limit = self.shared().request_timeout;
        self.unary_within(limit, operation, repeat, make).await
    }

    /// As [`unary`](Self::unary), with a limit of its own: for calls that wait.
    pub(crate) async fn unary_within<T, F>(
        &self,
        limit: Duration,
        operation: Call,
        repeat: Repeat,
        make: impl Fn(Channel, Metadata) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let background = Context::background_on(self.clock().clone());
        let caller = self.call_context().unwrap_or(&background);
        let call = operation.traced(caller.trace_id());
        let context = caller.with_timeout(limit);
        let started = self.clock().now();
        let budget = context.remaining();
        let mut trouble = None;
        let served = context.run(self.until_served(&context, repeat, &make, &mut trouble)).await;
        // A call that was cut off may have arrived.
        let cut_off = |fault| Fault { may_have_applied: true, ..fault };
        let fault = match served {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(fault)) => fault,
            Err(Cause::DeadlineExceeded) if caller.cause().is_none() => {
                cut_off(trouble.unwrap_or_else(|| Fault::unavailable("no server has answered")))
            }
            Err(Cause::DeadlineExceeded) => cut_off(Fault::of(ErrorKind::DeadlineExceeded)),
            Err(cause @ (Cause::Cancelled | Cause::LockLost(_))) => {
                cut_off(Fault::new(ErrorKind::Cancelled, cause.to_string()))
            }
        };
        let changes = repeat == Repeat::IfNotApplied;
        let fault = Fault { may_have_applied: changes && fault.may_have_applied, ..fault };
        let elapsed = self.clock().now().saturating_duration_since(started);
        Err(call.failed(fault).after(Spent { elapsed, budget }))
    }

    async fn until_served<T, F>(
        &self,
        context: &Context,
        repeat: Repeat,
        make: &impl Fn(Channel, Metadata) -> F,
        trouble: &mut Option<Fault>,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut retry = Retry::new(Policy { limit: Some(TRIES), ..Policy::default() });
        loop {
            let fault = match self.try_once(context, make).await {
                Ok(response) => return Ok(response),
                Err(fault) => fault,
            };
            let again = match repeat {
                Repeat::Harmless => fault.is_transient(),
                Repeat::IfNotApplied => fault.is_transient() && !fault.may_have_applied,
            };
            let Some(pause) = retry.next_delay().filter(|_| again) else { return Err(fault) };
            let clock = self.clock();
            *trouble = Some(fault);
            clock.sleep_until(clock.now() + pause).await;
        }
    }

    async fn try_once<T, F>(
        &self,
        context: &Context,
        make: &impl Fn(Channel, Metadata) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (turn, channel) = self.channel().await?;
        let metadata = Metadata::of(context);
        match make(channel, metadata).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => {
                let fault = Fault::from_status(status);
                if fault.is_transient() {
                    self.shared_channel().keep(None);
                    self.shared().endpoints.avoid(turn);
                }
                Err(fault)
            }
        }
    }

    /// The connection that is there, or a new one to the first address that takes it.
    pub(crate) async fn channel(&self) -> Result<(usize, Channel), Fault> {
        if let Some(cached) = self.shared_channel().cached() {
            return Ok(cached);
        }
        let endpoints = &self.shared().endpoints;
        let turn = endpoints.preferred();
        match endpoints.dial(turn).await {
            Ok(channel) => {
                let channel = DeadlineLayer::new().layer(channel);
                self.shared_channel().keep(Some((turn, channel.clone())));
                Ok((turn, channel))
            }
            Err(fault) => {
                endpoints.avoid(turn);
                let message = format!("{}: {}", endpoints.name(turn), fault.message);
                Err(Fault { message, ..fault })
            }
        }
    }

    /// The address that unary calls go to.
    pub(crate) fn unary_address(&self) -> String {
        let endpoints = &self.shared().endpoints;
        let turn = self.shared_channel().cached().map_or(endpoints.preferred(), |(turn, _)| turn);
        endpoints.name(turn).to_owned()
    }

    /// Tries each address in turn until one answers, whatever it says.
    pub(crate) async fn answers(&self, limit: Duration) -> Result<(), Error> {
        let endpoints = &self.shared().endpoints;
        let started = self.clock().now();
        let mut failures = vec![];
        for turn in 0..endpoints.len() {
            let elapsed = self.clock().now().saturating_duration_since(started);
            let shares = u32::try_from(endpoints.len() - turn).unwrap_or(u32::MAX);
            let share = limit.saturating_sub(elapsed) / shares;
            match tokio::time::timeout(share, self.probe(turn)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(fault)) => {
                    failures.push(format!("{}: {}", endpoints.name(turn), fault.message));
                }
                Err(_) => {
                    failures
                        .push(format!("{}: no answer within {share:.1?}", endpoints.name(turn)));
                }
            }
        }
        let elapsed = self.clock().now().saturating_duration_since(started);
        let fault = Fault::unavailable(failures.join("; "));
        Err(Call::new("connect").failed(fault).after(Spent { elapsed, budget: Some(limit) }))
    }

    async fn probe(&self, turn: usize) -> Result<(), Fault> {
        let channel = self.shared().endpoints.dial(turn).await?;
        let channel = DeadlineLayer::new().layer(channel);
        let status = AdminServiceClient::new(channel).status(StatusRequest {}).await;
        match status {
            Err(status) if !is_answer(&status) => Err(Fault::from_status(status)),
            // The connection is not kept: a client that only holds locks needs just its session's.
            Ok(_) | Err(_) => {
                self.shared().endpoints.prefer(turn);
                Ok(())
            }
        }
    }
}

/// What goes with each unary call: the context that it is made in, which the [`DeadlineLayer`] reads.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    context: Context,
}

impl Metadata {
    pub(crate) fn of(context: &Context) -> Self {
        Self { context: context.clone() }
    }

    /// Without a limit in time, for a stream.
    pub(crate) fn endless(self) -> Self {
        Self { context: self.context.detached() }
    }

    pub(crate) fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(self.context);
        request
    }
}
