//! Bounds on work in hand (LOAD-1), and the layer that times requests and finishes problem documents.

use crate::metrics::{HTTP_IN_FLIGHT, HTTP_REQUEST_SECONDS, HTTP_SHED_TOTAL};
use crate::problem::{self, Problem};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

/// At most so many requests are in hand at once; a further one is answered, not queued.
#[derive(Clone)]
pub struct InFlight(Arc<Semaphore>);

impl InFlight {
    /// Room for `most` requests.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS))))
    }
}

/// Runs a request if there is room, or answers `overloaded`.
pub async fn bound(State(InFlight(room)): State<InFlight>, request: Request, next: Next) -> Response {
    let Ok(_permit) = room.try_acquire() else {
        metrics::counter!(HTTP_SHED_TOTAL).increment(1);
        return Problem::new("overloaded", "too many requests at once: nothing was done, try again in a second")
            .into_response();
    };
    let gauge = metrics::gauge!(HTTP_IN_FLIGHT);
    gauge.increment(1.0);
    let _guard = OnDrop(|| gauge.decrement(1.0));
    next.run(request).await
}

/// Runs its closure when dropped, also when the caller goes away in mid-request.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Times a request by route and status class, and gives an error response its document.
pub async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = request.uri().path().to_owned();
    // The template, never the path itself: a label must not carry ids.
    let route = request.extensions().get::<MatchedPath>().map_or("(none)".to_owned(), |m| m.as_str().to_owned());
    let response = problem::finish(&path, next.run(request).await);
    let class = match response.status().as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    metrics::histogram!(HTTP_REQUEST_SECONDS, "route" => route, "status" => class).record(began.elapsed());
    response
}
