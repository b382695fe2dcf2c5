use super::*;
use crate::ports::TelemetryStore;
use crate::testing::{MemoryRecords, MemoryTelemetry};

#[tokio::test]
async fn records_in_memory_conform() {
    check_records(|| async { Arc::new(MemoryRecords::default()) as Arc<dyn ChargeRecords> }).await;
}

#[tokio::test]
async fn telemetry_in_memory_conforms() {
    check_telemetry(|| async { Arc::new(MemoryTelemetry::default()) as Arc<dyn TelemetryStore> }).await;
}
