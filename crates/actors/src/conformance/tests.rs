use super::*;
use crate::testing::MemoryRecords;

#[tokio::test]
async fn records_in_memory_conform() {
    check_records(|| async { Arc::new(MemoryRecords::default()) as Arc<dyn ChargeRecords> }).await;
}
