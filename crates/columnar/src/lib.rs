//! Readings as Arrow IPC streams, batch by batch, in bounded memory.
//!
//! A crate of its own because Arrow takes a minute to compile: nothing that does not export needs it.
//! The columns and their units are those of the readings everywhere else; see `docs/reference/telemetry.md`.

#[cfg(test)]
mod tests;

use arrow_array::types::{Int32Type, Int64Type, TimestampMillisecondType, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, PrimitiveArray, RecordBatch, StringArray};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};
use chargeplane_domain::sample::Reading;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// The form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Arrow IPC, the streaming format.
    ArrowStream,
}

/// Why nothing can be written.
#[derive(Debug, thiserror::Error)]
pub enum ColumnarError {
    /// Arrow refuses.
    #[error("arrow: {0}")]
    Arrow(#[from] ArrowError),
}

/// A file on its way: what [`write`](Self::write) and [`finish`](Self::finish) return, one after the other, is the file.
pub struct ColumnarWriter {
    schema: Arc<Schema>,
    out: Pipe,
    writer: Writer,
}

enum Writer {
    Arrow(Box<StreamWriter<Pipe>>),
}

/// Bytes that were written and not yet taken. Shared with the writer that the libraries own.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Pipe {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ColumnarWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// The library refuses the columns, which none does.
    pub fn new(format: Format) -> Result<Self, ColumnarError> {
        let (schema, out) = (Arc::new(schema()), Pipe::default());
        let writer = match format {
            Format::ArrowStream => Writer::Arrow(Box::new(StreamWriter::try_new(out.clone(), &schema)?)),
        };
        Ok(Self { schema, out, writer })
    }

    /// Adds readings of one charger; returns what can be sent already.
    ///
    /// # Errors
    /// The library refuses; the file is of no use then.
    pub fn write(&mut self, charger: &str, readings: &[Reading]) -> Result<Vec<u8>, ColumnarError> {
        if !readings.is_empty() {
            let batch = batch(&self.schema, charger, readings)?;
            match &mut self.writer {
                Writer::Arrow(writer) => writer.write(&batch)?,
            }
        }
        Ok(self.out.take())
    }

    /// Ends the file; returns its last bytes.
    ///
    /// # Errors
    /// The library refuses; the file is of no use then.
    pub fn finish(self) -> Result<Vec<u8>, ColumnarError> {
        match self.writer {
            Writer::Arrow(mut writer) => writer.finish()?,
        }
        Ok(self.out.take())
    }
}

fn schema() -> Schema {
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let field = |name: &str, kind: DataType| Field::new(name, kind, false);
    Schema::new(vec![
        field("charger", DataType::Utf8),
        field("incarnation", DataType::UInt32),
        field("number", DataType::UInt64),
        field("at", time),
        field("voltage_dv", DataType::Int32),
        field("current_da", DataType::Int32),
        field("temperature_dc", DataType::Int32),
        field("soc_permille", DataType::Int32),
        field("power_w", DataType::Int64),
        field("register_wh", DataType::Int64),
    ])
}

fn batch(schema: &Arc<Schema>, charger: &str, readings: &[Reading]) -> Result<RecordBatch, ColumnarError> {
    let samples = || readings.iter().map(|reading| &reading.sample);
    let at: PrimitiveArray<TimestampMillisecondType> = samples().map(|sample| sample.at.0).collect::<Vec<_>>().into();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(readings.iter().map(|_| charger))),
        Arc::new(PrimitiveArray::<UInt32Type>::from_iter_values(readings.iter().map(|reading| reading.incarnation))),
        Arc::new(PrimitiveArray::<UInt64Type>::from_iter_values(readings.iter().map(|reading| reading.number))),
        Arc::new(at.with_timezone("UTC")),
        Arc::new(PrimitiveArray::<Int32Type>::from_iter_values(samples().map(|sample| sample.voltage_dv))),
        Arc::new(PrimitiveArray::<Int32Type>::from_iter_values(samples().map(|sample| sample.current_da))),
        Arc::new(PrimitiveArray::<Int32Type>::from_iter_values(samples().map(|sample| sample.temperature_dc))),
        Arc::new(PrimitiveArray::<Int32Type>::from_iter_values(samples().map(|sample| sample.soc_permille))),
        Arc::new(PrimitiveArray::<Int64Type>::from_iter_values(samples().map(|sample| sample.power.0))),
        Arc::new(PrimitiveArray::<Int64Type>::from_iter_values(samples().map(|sample| sample.register.0))),
    ];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
