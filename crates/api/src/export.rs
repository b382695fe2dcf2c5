//! Charge records as files: CSV, JSON, and OCPI 2.2.1 CDRs, of any number in bounded memory.
//!
//! An export reads page after page and writes each as soon as the client has taken the one before. What breaks off
//! in the middle (a failing store, a client that takes nothing any more) ends the connection without the end of the
//! body, so that no half file looks whole.

mod csv;
mod ocpi;
pub(crate) mod readings;

pub use ocpi::CdrTerms;

use crate::dto::ChargeRecordDto;
use crate::problem::Problem;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chargeplane_actors::handle::NodeHandle;
use chargeplane_actors::ports::{RecordQuery, StoredRecord};
use futures_core::Stream;
use serde::Deserialize;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Records read at a time.
const PAGE: usize = 1_000;

/// Pages that may wait for the client.
const AHEAD: usize = 2;

/// A client that takes nothing for so long is given up.
const STALL: Duration = Duration::from_secs(60);

/// Exports at once; a further one is answered `overloaded`.
const MOST: usize = 4;

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// RFC 4180, with a header row.
    Csv,
    /// An array of the documents of `/charge-records`.
    Json,
    /// One of them a line.
    JsonLines,
    /// An array of OCPI 2.2.1 CDR objects.
    Ocpi,
    /// One of them a line.
    OcpiLines,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Json | Self::Ocpi => "application/json",
            Self::JsonLines | Self::OcpiLines => "application/x-ndjson",
        }
    }

    fn file_name(self) -> &'static str {
        match self {
            Self::Csv => "attachment; filename=\"charge-records.csv\"",
            Self::Json => "attachment; filename=\"charge-records.json\"",
            Self::JsonLines => "attachment; filename=\"charge-records.jsonl\"",
            Self::Ocpi => "attachment; filename=\"cdrs.json\"",
            Self::OcpiLines => "attachment; filename=\"cdrs.jsonl\"",
        }
    }

    /// What stands before the first record, between two, and after the last.
    fn frame(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Csv => (csv::HEADER, "", ""),
            Self::Json | Self::Ocpi => ("[\n", ",\n", "\n]\n"),
            Self::JsonLines | Self::OcpiLines => ("", "\n", "\n"),
        }
    }
}

/// What exports need: room, and what a CDR says beyond its record.
#[derive(Clone)]
pub(crate) struct Exports {
    room: Arc<Semaphore>,
    terms: Arc<CdrTerms>,
}

impl Exports {
    pub(crate) fn new(terms: CdrTerms) -> Self {
        Self { room: Arc::new(Semaphore::new(MOST)), terms: Arc::new(terms) }
    }

    /// A place among the exports that run.
    fn room(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = |_| Problem::new("overloaded", format!("{MOST} exports are running: try again when one has ended"));
        Arc::clone(&self.room).try_acquire_owned().map_err(busy)
    }

    /// Answers with all records of a query. The first page is read before the answer begins, so that what fails at
    /// once is a problem document.
    pub(crate) async fn answer(
        &self,
        handle: &NodeHandle,
        query: RecordQuery,
        format: Format,
    ) -> Result<Response, Problem> {
        let permit = self.room()?;
        let query = RecordQuery { limit: PAGE, ..query };
        let first = handle.charge_records(query.clone()).await?;
        let (chunks, received) = mpsc::channel(AHEAD);
        let export = Export { handle: handle.clone(), query, format, terms: Arc::clone(&self.terms), chunks };
        tokio::spawn(export.run(first, permit));
        let mut response = Body::from_stream(Chunks(received)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(format.file_name()));
        Ok(response)
    }
}

struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl Stream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// An export on its way.
struct Export {
    handle: NodeHandle,
    query: RecordQuery,
    format: Format,
    terms: Arc<CdrTerms>,
    chunks: mpsc::Sender<io::Result<Bytes>>,
}

/// The client went away, or takes nothing.
struct Gone;

impl Export {
    async fn run(self, first: Vec<StoredRecord>, _room: OwnedSemaphorePermit) {
        if let Err(error) = self.pages(first).await {
            tracing::warn!(%error, "an export of charge records broke off");
            // The body ends without its end. Should nobody listen, it has ended already.
            let _ = self.chunks.send_timeout(Err(io::Error::other(error)), STALL).await;
        }
    }

    async fn pages(&self, first: Vec<StoredRecord>) -> Result<(), String> {
        let (before, between, after) = self.format.frame();
        let mut text = before.to_owned();
        let mut page = first;
        let mut any = false;
        loop {
            for record in &page {
                if std::mem::replace(&mut any, true) {
                    text.push_str(between);
                }
                text.push_str(&self.row(record)?);
            }
            let last = page.last().filter(|_| page.len() >= PAGE);
            let Some(next) = last.map(|last| self.query.clone().after(last)) else { break };
            if self.send(std::mem::take(&mut text)).await.is_err() {
                return Ok(());
            }
            page = self.handle.charge_records(next).await.map_err(|error| error.to_string())?;
        }
        // Lines of nothing are no line.
        if any || matches!(self.format, Format::Json | Format::Ocpi) {
            text.push_str(after);
        }
        let _ = self.send(text).await;
        Ok(())
    }

    async fn send(&self, text: String) -> Result<(), Gone> {
        self.chunks.send_timeout(Ok(Bytes::from(text)), STALL).await.map_err(|_| Gone)
    }

    fn row(&self, stored: &StoredRecord) -> Result<String, String> {
        match self.format {
            Format::Csv => Ok(csv::row(stored)),
            Format::Json | Format::JsonLines => {
                serde_json::to_string(&ChargeRecordDto::from(stored.clone())).map_err(|error| error.to_string())
            }
            Format::Ocpi | Format::OcpiLines => Ok(ocpi::cdr(&stored.record, &self.terms)),
        }
    }
}
