//! Telemetry: readings thinned and whole, exports in every form, the newest readings, hours.

use super::*;
use chargeplane_actors::ports::{ChunkRow, DirtyHour, Flush, TelemetryStore};
use chargeplane_domain::chunk::{Chunk, range_of};
use chargeplane_domain::rollup::{Hour, StoredChunk, rollup};
use chargeplane_domain::sample::{NumberedSample, Sample};
use chargeplane_domain::units::Watts;
use std::collections::BTreeMap;

const START: i64 = 1_767_600_000_000;

/// A reading a second, a spike at 7,000.
fn sample(number: u64) -> NumberedSample {
    let n = i64::try_from(number).unwrap();
    let sample = Sample {
        at: Timestamp(START + n * 1_000),
        voltage_dv: 4_000,
        current_da: 100 + i32::try_from(n % 10).unwrap(),
        temperature_dc: -5,
        soc_permille: 500,
        power: Watts(if number == 7_000 { 119_000 } else { 60_000 }),
        register: WattHours(n),
    };
    NumberedSample { number, sample }
}

fn rows(charger: &str, epoch: u64, numbers: impl IntoIterator<Item = u64>) -> Vec<ChunkRow> {
    let mut ranges: BTreeMap<u64, Vec<NumberedSample>> = BTreeMap::new();
    for number in numbers {
        ranges.entry(range_of(number)).or_default().push(sample(number));
    }
    let row = |(range, samples)| {
        let chunk = Chunk::new(range, samples).unwrap().encode().unwrap();
        ChunkRow { charger: charger.parse().unwrap(), incarnation: 1, epoch, chunk }
    };
    ranges.into_iter().map(row).collect()
}

/// 20,000 readings of c1, of which two owners have stored some twice, and 300 of c2.
async fn with_telemetry() -> Server {
    let server = Server::furnished().await;
    let shard = ShardId { family: Family::Station, index: 0 };
    let mut chunks = rows("c1", 1, 0..12_000);
    chunks.extend(rows("c1", 2, 11_900..20_000));
    chunks.extend(rows("c2", 1, 0..300));
    server.stores.telemetry.write(Flush { shard, chunks, gaps: vec![], cursors: vec![] }).await.unwrap();
    server
}

/// Rolls up as the node does for days that are not over for long.
async fn store_hours(server: &Server, charger: &str, upto: u64) {
    let chunks = rows(charger, 1, 0..upto);
    let stored: Vec<_> = chunks.iter().map(|row| StoredChunk { epoch: 1, bytes: &row.chunk.bytes }).collect();
    let first = Hour::of(Timestamp(START));
    let hours = (first.0..first.0 + 6).map(|hour| {
        let dirty = DirtyHour { charger: charger.parse().unwrap(), hour: Hour(hour), mark: 0 };
        (dirty, Some(rollup(Hour(hour), &stored).unwrap()))
    });
    let shard = ShardId { family: Family::Station, index: 0 };
    server.stores.telemetry.put_rollups(shard, hours.collect()).await.unwrap();
}

const ALL_OF_IT: &str = "from=2026-01-05T00:00:00Z&to=2026-01-06T00:00:00Z";

async fn bytes(server: &Server, path: &str) -> Bytes {
    let request = Request::get(format!("/api/v1{path}")).header("authorization", bearer(ALL));
    let response = server.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    to_bytes(response.into_body(), 64 << 20).await.unwrap()
}

#[tokio::test]
async fn an_export_has_every_reading_once_in_every_form() {
    let server = with_telemetry().await;
    let csv = bytes(&server, &format!("/chargers/c1/telemetry/export?format=csv&{ALL_OF_IT}")).await;
    let csv = String::from_utf8(csv.to_vec()).unwrap();
    let numbers: Vec<u64> = csv.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..20_000).collect::<Vec<_>>(), "by time, each once");
    assert!(csv.lines().nth(1).unwrap().starts_with("main/c1,1,0,2026-01-05T08:00:00.000Z,4000,100,-5,500,60000,0"));
    let lines = bytes(&server, &format!("/stations/s1/telemetry/export?format=json_lines&{ALL_OF_IT}")).await;
    let lines: Vec<Value> = lines
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 20_300, "charger after charger");
    assert_eq!((&lines[20_299]["charger"], &lines[20_299]["number"]), (&json!("main/c2"), &json!(299)));
    let arrow = bytes(&server, &format!("/stations/s1/telemetry/export?format=arrow&{ALL_OF_IT}")).await;
    assert_eq!(arrow[..4], [0xff; 4], "a continuation marker");
    let nothing = bytes(&server, "/chargers/c1/telemetry/export?format=csv&from=0&to=9").await;
    assert_eq!(nothing.iter().filter(|b| **b == b'\n').count(), 1, "the header row alone");
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_its_size_and_can_be_thinned() {
    let server = with_telemetry().await;
    let path = format!("/chargers/c1/telemetry/export?format=csv&limit=19999&{ALL_OF_IT}");
    let problem = server.get(&path).await.refused(413, "range_too_large");
    assert!(problem["detail"].as_str().unwrap().contains("up to 20100 readings"), "{problem}");
    let path = format!("/chargers/c1/telemetry?{ALL_OF_IT}");
    let problem = server.get(&path).await.refused(413, "range_too_large");
    assert!(problem["detail"].as_str().unwrap().contains("20000 samples"), "{problem}");
    let thinned = server.get(&format!("{path}&points=200&columns=power,current")).await.ok();
    assert_eq!(thinned["thinned_from"], 20_000);
    let samples = thinned["samples"].as_array().unwrap();
    assert!((20..=200).contains(&samples.len()), "{}", samples.len());
    assert!(samples.iter().any(|sample| sample["power_w"] == 119_000), "the spike of one reading");
    assert_eq!((&samples[0]["number"], &samples[samples.len() - 1]["number"]), (&json!(0), &json!(19_999)));
    for wrong in ["points=3", "points=20001", "points=9&columns=watts"] {
        server.get(&format!("{path}&{wrong}")).await.refused(400, "bad_query");
    }
    let csv = bytes(&server, &format!("/stations/s1/telemetry/export?format=csv&points=50&{ALL_OF_IT}")).await;
    assert!(csv.iter().filter(|b| **b == b'\n').count() <= 101, "each charger thinned");
}

#[tokio::test]
async fn the_newest_reading_is_found_in_the_store_and_hours_are_of_every_charger() {
    let server = with_telemetry().await;
    let latest = server.get("/stations/s1/telemetry/latest").await.ok();
    let of = |n: usize| (latest["items"][n]["charger"].clone(), latest["items"][n]["number"].clone());
    assert_eq!((of(0), of(1)), ((json!("main/c1"), json!(19_999)), (json!("main/c2"), json!(299))));
    assert_eq!(server.get("/chargers/c2/telemetry/latest").await.ok()["items"][0]["register_wh"], 299);
    server.get("/chargers/c9/telemetry/latest").await.refused(404, "not_found");
    server.get("/stations/s9/telemetry/latest").await.refused(404, "not_found");
    let foreign = server.ask(ACME, "GET", "/stations/main%2Fs1/telemetry/latest", None, None).await;
    assert!(foreign.status.is_client_error());
    for (charger, upto) in [("c1", 20_000), ("c2", 300)] {
        store_hours(&server, charger, upto).await;
    }
    let hours = server.get(&format!("/stations/s1/telemetry/hourly?{ALL_OF_IT}")).await.ok();
    let hours = hours["items"].as_array().unwrap();
    let counts: Vec<u64> = hours.iter().map(|hour| hour["samples"].as_u64().unwrap()).collect();
    assert_eq!(counts, [3_600, 3_600, 3_600, 3_600, 3_600, 2_000, 300]);
    let power = &hours[1]["power_w"];
    assert_eq!((&power["max"], &power["sum"]), (&json!(119_000), &json!(3_600 * 60_000 + 59_000)));
    assert_eq!((&hours[0]["heard_minutes"], &hours[6]["heard_minutes"]), (&json!(60), &json!(5)));
    assert_eq!((&hours[0]["temperature_dc"]["mean"], &hours[0]["energy_wh"]), (&json!(-5), &json!(3_599)));
}
