//! Pages of charge records out of a store of many: by city and month, by charger, by account.
//!
//! The store is filled through its port as a rebuild fills it, in batches as the projection makes them, in the order in
//! which sessions end; the last ones come in while it is served. It is then closed, the kernel is asked to forget its
//! file, and it is opened anew: the first pages come from the disk. Pages are asked for one after the other, each of another city and month, charger or account, and each second
//! one begins in the middle of its list.

use crate::Output;
use crate::report::Report;
use anyhow::Context;
use chargeplane_actors::ports::{ChargeRecords, Generation, ReadModel, RecordBatch, RecordQuery, StoredRecord};
use chargeplane_domain::ids::{AccountId, ChargerId, ConnectorNo, OperatorId, SessionId, StationId, TenantId};
use chargeplane_domain::month::Month;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::session::{ChargeRecord, StopReason};
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{Price, Slots, Tariff, zone};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
use chargeplane_sqlite::{DataDir, SqliteRecords};
use hdrhistogram::Histogram;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

const CITIES: u64 = 16;
const CHARGERS: u64 = 100_000;
const ACCOUNTS: u64 = 250_000;
const SHARDS: u64 = 32;

/// Records of one batch.
const BATCH: u64 = 1_000;

/// Records that come in while the others are served; no more than a tenth of all.
const LIVE: u64 = 20_000;

/// Rows of a page.
const PAGE: usize = 100;

/// Pages of each kind.
const PAGES: u64 = 1_000;

/// 2025-01-01 00:00 in Shanghai, and the milliseconds of the year after it.
const BEGIN_MS: i64 = 1_735_660_800_000;
const YEAR_MS: i64 = 365 * 86_400_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
    /// Records in the store
    #[arg(long, default_value_t = 10_000_000)]
    records: u64,
    /// Directory on the disk to measure [default: the system's for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut report = Report::new("records", dir.path());
    measure(dir.path(), args.records, &mut report)?;
    report.finish(args.output.json.as_deref())
}

/// Fills a store below `dir` and asks it; about 0.4 KB of disk a record.
pub fn measure(dir: &Path, records: u64, report: &mut Report) -> anyhow::Result<()> {
    let data = dir.join("records");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let fleet = Fleet::new(records)?;
    let store = SqliteRecords::open(&DataDir::lock(&data)?)?;
    let live = LIVE.min(records / 10);
    let mut at = vec![0u64; SHARDS as usize];
    let began = Instant::now();
    runtime.block_on(fleet.build(&store, records - live, &mut at))?;
    report.result("record_insert_per_s", (records - live) as f64 / began.elapsed().as_secs_f64());
    let began = Instant::now();
    runtime.block_on(fleet.fill(&store, Generation::Served, records - live..records, &mut at))?;
    report.result("record_live_insert_per_s", live as f64 / began.elapsed().as_secs_f64());
    let count = runtime.block_on(store.count(Generation::Served))?;
    anyhow::ensure!(count == records, "{count} records of {records} are in");
    drop(store);
    // A rebuild takes the other one of the two names.
    let file = data.join("records-b.sqlite");
    report.result("record_bytes", std::fs::metadata(&file)?.len() as f64 / records as f64);
    forget(&file)?;
    let store = SqliteRecords::open(&DataDir::lock(&data)?)?;
    let mut all = Histogram::<u64>::new(3)?;
    for kind in Kind::ALL {
        let times = runtime.block_on(fleet.ask(&store, kind))?;
        report.result(&format!("record_query_{}_ms_p50", kind.name()), ms(times.value_at_quantile(0.5)));
        report.result(&format!("record_query_{}_ms_p99", kind.name()), ms(times.value_at_quantile(0.99)));
        all.add(&times)?;
    }
    report.result("record_query_ms_p99", ms(all.value_at_quantile(0.99)));
    report.result("record_query_ms_max", ms(all.max()));
    report.note(
        "record_query_ms_p99",
        format!("{records} records, {CITIES} cities, {CHARGERS} chargers; pages of {PAGE}; the file was not in memory"),
    );
    drop(store);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

/// Asks the kernel to drop a file's pages from memory, once they are on the disk.
fn forget(file: &Path) -> anyhow::Result<()> {
    let file = std::fs::File::open(file)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// How a page is asked for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    City,
    Charger,
    Account,
}

impl Kind {
    const ALL: [Self; 3] = [Self::City, Self::Charger, Self::Account];

    fn name(self) -> &'static str {
        match self {
            Self::City => "city_month",
            Self::Charger => "charger",
            Self::Account => "account",
        }
    }
}

/// What the records are about.
struct Fleet {
    records: u64,
    tariff: Tariff,
    zone: zone::TimeZone,
}

/// Spreads numbers: the same for the same, and no two neighbours alike (SplitMix64).
fn spread(n: u64) -> u64 {
    let z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Fleet {
    fn new(records: u64) -> anyhow::Result<Self> {
        let price = |energy| Price { energy: Money(energy), service: Money(4_000) };
        let prices = [price(12_000), price(10_000), price(7_000), price(3_000)];
        let slots = Slots::uniform(2).context("slots")?;
        let tariff = Tariff { currency: Currency::new("CNY")?, prices, slots, fees: Fees::NONE };
        Ok(Self { records, tariff, zone: zone::parse("Asia/Shanghai")? })
    }

    fn ended_at(&self, n: u64) -> Timestamp {
        let share = i128::from(n) * i128::from(YEAR_MS) / i128::from(self.records.max(1));
        Timestamp(BEGIN_MS.saturating_add(i64::try_from(share).unwrap_or(YEAR_MS)))
    }

    fn charger(n: u64) -> u64 {
        spread(n) % CHARGERS
    }

    fn account(n: u64) -> anyhow::Result<AccountId> {
        Ok(format!("driver-{:06}", spread(n ^ 0xacc0) % ACCOUNTS).parse()?)
    }

    fn city(charger: u64) -> String {
        format!("City {:02}", spread(charger) % CITIES)
    }

    fn record(&self, n: u64) -> anyhow::Result<ChargeRecord> {
        let charger = Self::charger(n);
        let id: ChargerId = format!("charger-{charger:06}").parse()?;
        let ended_at = self.ended_at(n);
        let energy = 5_000 + i64::try_from(spread(n ^ 0xe) % 60_000)?;
        let amount = Money(energy * 11);
        let meter_start = WattHours(i64::try_from(n)? * 40);
        Ok(ChargeRecord {
            session: format!("{}.{}", id.local(), n + 1).parse::<SessionId>()?,
            account: Self::account(n)?,
            station: format!("station-{:04}", charger / 50).parse::<StationId>()?,
            charger: id,
            connector: ConnectorNo(1),
            operator: "operator-1".parse::<OperatorId>()?,
            city: Self::city(charger),
            time_zone: "Asia/Shanghai".to_owned(),
            started_at: ended_at.plus_ms(-2_400_000),
            ended_at,
            month: Month::of(ended_at, &self.zone),
            meter_start,
            meter_stop: WattHours(meter_start.0 + energy),
            energy: WattHours(energy),
            billed_wh: WattHours(energy),
            overshoot_wh: WattHours(0),
            by_period: [WattHours(0), WattHours(0), WattHours(energy), WattHours(0)],
            time: MeteredTime { charging_ms: energy * 30, idle_ms: 0 },
            energy_amount: Money(energy * 7),
            service_amount: Money(energy * 4),
            fees_amount: Money(0),
            total: amount,
            billed: amount,
            overshoot: Money(0),
            currency: self.tariff.currency,
            stop_reason: StopReason::TargetReached,
            tariff: self.tariff.clone(),
        })
    }

    /// Builds a generation of the first records and serves it.
    async fn build(&self, store: &SqliteRecords, records: u64, at: &mut [u64]) -> anyhow::Result<()> {
        store.begin().await?;
        self.fill(store, Generation::Fresh, 0..records, at).await?;
        anyhow::ensure!(store.publish().await?, "what was built is not served");
        Ok(())
    }

    /// Adds records; `at` is how far each shard is.
    async fn fill(
        &self,
        store: &SqliteRecords,
        to: Generation,
        numbers: Range<u64>,
        at: &mut [u64],
    ) -> anyhow::Result<()> {
        for first in numbers.clone().step_by(BATCH as usize) {
            let index = (first / BATCH) % SHARDS;
            let shard = ShardId { family: Family::Station, index: u16::try_from(index)? };
            let after_lsn = at[index as usize];
            let mut records = Vec::with_capacity(BATCH as usize);
            for n in first..(first + BATCH).min(numbers.end) {
                let lsn = after_lsn + 1 + (n - first) / 4;
                records.push(StoredRecord { shard, lsn, index: (n % 4) as u32, record: self.record(n)? });
            }
            let upto_lsn = records.last().map_or(after_lsn, |last| last.lsn);
            at[index as usize] = upto_lsn;
            let added = store.add(to, RecordBatch { shard, after_lsn, upto_lsn, records }).await?;
            anyhow::ensure!(added.conflicts.is_empty(), "{:?}", added.conflicts.first());
        }
        Ok(())
    }

    /// Microseconds of each page.
    async fn ask(&self, store: &SqliteRecords, kind: Kind) -> anyhow::Result<Histogram<u64>> {
        let mut times = Histogram::<u64>::new(3)?;
        for n in 0..PAGES {
            // Of a record that is there, so that no page is empty.
            let like = spread(n ^ 0x9a6e) % self.records;
            let record = self.record(like)?;
            let mut query = RecordQuery { limit: PAGE, ..RecordQuery::default() };
            match kind {
                Kind::City => {
                    query.tenant = Some(TenantId::default());
                    query.city = Some(record.city.clone());
                    query.month = Some(record.month);
                }
                Kind::Charger => {
                    query.charger = Some(record.charger.clone());
                    query.month = (n % 4 < 2).then_some(record.month);
                }
                Kind::Account => query.account = Some(record.account.clone()),
            }
            let from_the_middle = n % 2 == 1;
            if from_the_middle {
                query.after = Some((record.ended_at.plus_ms(1), record.session.clone()));
            }
            let began = Instant::now();
            let page = store.page(Generation::Served, query.clone()).await?;
            times.record(u64::try_from(began.elapsed().as_micros())?.max(1))?;
            let right = page.iter().all(|row| query.wants(&row.record)) && page.len() <= PAGE;
            anyhow::ensure!(right && !page.is_empty(), "a page of {kind:?} is not what was asked for");
            let found = page.first().is_some_and(|first| first.record.session == record.session);
            anyhow::ensure!(!from_the_middle || found, "the record itself is missing from its page");
        }
        Ok(times)
    }
}
