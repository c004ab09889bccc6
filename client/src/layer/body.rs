//! The body of an answer, which ends with its context.

use std::{
    fmt,
    pin::Pin,
    task::{Context as Wake, Poll, ready},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{BoxError, Gone, Protocol};
use crate::context::{Cause, Context};

pin_project! {
    /// The body of an answer, which ends with its context, and whose end is the context's.
    pub struct ContextBody<B> {
        #[pin]
        content: Content<B>,
        ended: Option<BoxFuture<'static, Cause>>,
        end: fn(&Cause) -> Result<HeaderMap, BoxError>,
        gone: Option<Gone>,
    }
}

pin_project! {
    #[project = ContentProjection]
    enum Content<B> {
        Handlers { #[pin] body: B },
        Text { text: Bytes },
        Over,
    }
}

impl<B> fmt::Debug for ContextBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextBody").finish_non_exhaustive()
    }
}

impl<B> ContextBody<B> {
    /// The handler's body, bounded by a context.
    pub(super) fn new<P: Protocol>(body: B, bound: Context, gone: Gone) -> Self {
        let ended = Box::pin(async move { bound.reach(P::LAYER).await });
        let content = Content::Handlers { body };
        Self { content, ended: Some(ended), end: P::end, gone: Some(gone) }
    }

    /// A body without a context.
    pub(super) fn text(text: Bytes) -> Self {
        let end = |_: &Cause| Ok(HeaderMap::new());
        Self { content: Content::Text { text }, ended: None, end, gone: None }
    }
}

impl<B> Body for ContextBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        wake: &mut Wake<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        match this.content.as_mut().project() {
            ContentProjection::Over => return Poll::Ready(None),
            ContentProjection::Text { text } => {
                let text = std::mem::take(text);
                this.content.set(Content::Over);
                let frame = (!text.is_empty()).then(|| Ok(Frame::data(text)));
                return Poll::Ready(frame);
            }
            // What is ready is sent first.
            ContentProjection::Handlers { body } => {
                if let Poll::Ready(frame) = body.poll_frame(wake) {
                    return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
                }
            }
        }
        let Some(ending) = this.ended else { return Poll::Pending };
        let cause = ready!(ending.as_mut().poll(wake));
        (*this.ended, *this.gone) = (None, None);
        this.content.set(Content::Over);
        Poll::Ready(Some((this.end)(&cause).map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Handlers { body } => body.is_end_stream(),
            Content::Text { text } => text.is_empty(),
            Content::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Handlers { body } => body.size_hint(),
            Content::Text { text } => SizeHint::with_exact(text.len() as u64),
            Content::Over => SizeHint::with_exact(0),
        }
    }
}
