//! Read models on a random journal, with crashes and repeated batches, against ones that are built from it again.

use crate::{DataDir, SqliteRecords, SqliteStatements};
use chargeplane_actors::conformance::record;
use chargeplane_actors::entry::{EncodedEntries, Entry};
use chargeplane_actors::family::StationFamilyEvent;
use chargeplane_actors::ports::{ChargeRecords, Generation, ReadModel, RecordQuery, Statements};
use chargeplane_actors::projection::rebuild::{Model, Source};
use chargeplane_actors::projection::{PAGE, compare, project_page};
use chargeplane_cluster::frame::{Frame, FrameHash};
use chargeplane_cluster::journal::Journal;
use chargeplane_cluster::memory::MemoryJournal;
use chargeplane_domain::account::AccountEvent;
use chargeplane_domain::charger::ChargerEvent;
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::units::{Currency, Money, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const SHARDS: [ShardId; 4] = [
    ShardId { family: Family::Station, index: 0 },
    ShardId { family: Family::Station, index: 1 },
    ShardId { family: Family::Account, index: 0 },
    ShardId { family: Family::Account, index: 1 },
];

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A frame with so many events.
    Frame { shard: usize, events: usize },
    /// A page is projected from so many frames before the cursor on: all of them come again.
    Project { shard: usize, back: u64 },
    /// The power fails: of the last transactions as much is left as so many thousandths of the WAL hold.
    Crash { permille: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..4, 1usize..6).prop_map(|(shard, events)| Step::Frame { shard, events }),
        4 => (0usize..4, 0u64..4).prop_map(|(shard, back)| Step::Project { shard, back }),
        1 => (0u64..1_001).prop_map(|permille| Step::Crash { permille }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A journal that grows, and the read models of a node that crashes.
struct World {
    journal: Arc<MemoryJournal>,
    heads: BTreeMap<ShardId, (u64, FrameHash)>,
    events: u32,
    dir: tempfile::TempDir,
    records: Arc<SqliteRecords>,
    statements: Arc<SqliteStatements>,
}

fn open(dir: &Path) -> (Arc<SqliteRecords>, Arc<SqliteStatements>) {
    let dir = DataDir::lock(dir).expect("locks");
    (Arc::new(SqliteRecords::open(&dir).expect("opens")), Arc::new(SqliteStatements::open(&dir).expect("opens")))
}

impl World {
    async fn new() -> Self {
        let journal = Arc::new(MemoryJournal::new());
        for shard in SHARDS {
            journal.open(shard, NodeId("n1".into())).await.expect("opens");
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let (records, statements) = open(dir.path());
        let heads = SHARDS.map(|shard| (shard, (0, FrameHash::genesis(shard)))).into_iter().collect();
        Self { journal, heads, events: 0, dir, records, statements }
    }

    async fn frame(&mut self, shard: ShardId, events: usize) {
        let mut entries = EncodedEntries::default();
        for _ in 0..events {
            self.events += 1;
            push(&mut entries, shard, self.events);
        }
        let (last, hash) = self.heads[&shard];
        let frame = Frame::following(shard, 1, last, hash, Timestamp(1), entries.into_payload());
        self.heads.insert(shard, (frame.lsn, frame.hash()));
        self.journal.commit(vec![frame]).await.expect("commits");
    }

    async fn project(&self, shard: ShardId, back: u64) {
        let mut cursors = self.records.cursors(Generation::Served).await.expect("reads");
        cursors.extend(self.statements.cursors(Generation::Served).await.expect("reads"));
        let at = cursors.iter().find(|(of, _)| *of == shard).map_or(0, |(_, lsn)| *lsn);
        let models: (&dyn ChargeRecords, &dyn Statements) = (&*self.records, &*self.statements);
        let done =
            project_page(&*self.journal, models, Generation::Served, shard, (at.saturating_sub(back), PAGE)).await;
        done.expect("projects");
    }

    /// What a machine would find after its power failed: the files as they are, each WAL cut off somewhere.
    fn crash(&mut self, permille: u64) {
        let next = tempfile::tempdir().expect("temporary directory");
        for entry in std::fs::read_dir(self.dir.path()).expect("lists") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_str().expect("text");
            if name.ends_with(".sqlite") || name.ends_with("-wal") {
                let to = next.path().join(name);
                let bytes = std::fs::copy(&path, &to).expect("copies");
                if name.ends_with("-wal") {
                    let file = std::fs::OpenOptions::new().write(true).open(&to).expect("opens");
                    file.set_len(bytes * permille / 1_000).expect("cuts");
                }
            }
        }
        (self.records, self.statements) = open(next.path());
        self.dir = next;
    }

    fn source(&self) -> Source {
        let (records, statements) = (self.records.clone(), self.statements.clone());
        Source { journal: self.journal.clone(), records, statements }
    }
}

fn push(entries: &mut EncodedEntries, shard: ShardId, n: u32) {
    let at = 1_769_875_200_000 + i64::from(n % 7) * 60_000;
    match shard.family {
        Family::Station => {
            let record = record(&format!("c{}.{n}", shard.index), &format!("a{}", n % 3), "Suzhou", at);
            let event = ChargerEvent::SessionSettled { session: record.session.clone(), record };
            let event = StationFamilyEvent::Charger(event);
            entries.push(&Entry::Entity { key: format!("charger:main/c{}", shard.index), event }).expect("encodes");
        }
        Family::Account => {
            let (currency, amount) = (Currency::new("CNY").expect("a currency"), Money(i64::from(n)));
            let event = AccountEvent::ToppedUp { key: format!("k{n}"), currency, amount, at: Timestamp(at) };
            let key = format!("account:main/a{}.{}", shard.index, n % 3);
            entries.push(&Entry::Entity { key, event }).expect("encodes");
        }
    }
}

async fn run(steps: Vec<Step>) -> World {
    let mut world = World::new().await;
    for step in steps {
        match step {
            Step::Frame { shard, events } => world.frame(SHARDS[shard], events).await,
            Step::Project { shard, back } => world.project(SHARDS[shard], back).await,
            Step::Crash { permille } => world.crash(permille),
        }
    }
    for shard in SHARDS {
        world.project(shard, 0).await;
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_is_built_again_is_equal_to_the_last_byte(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let world = run(steps).await;
            let rows = [
                world.records.count(Generation::Served).await.expect("counts"),
                world.statements.count(Generation::Served).await.expect("counts"),
            ];
            prop_assert_eq!(rows[0] + rows[1], u64::from(world.events), "every event is a row");
            for (model, rows) in [Model::Records, Model::Statements].into_iter().zip(rows) {
                // Compared and dropped, then built and served, then once more from the second file.
                for check in [true, false, false] {
                    let compared = world.source().rebuild(model, check, &|_| {}).await.expect("rebuilds");
                    prop_assert_eq!(compared.difference, None);
                    prop_assert_eq!(compared.equal, rows);
                }
            }
            prop_assert_eq!(world.records.count(Generation::Served).await, Ok(rows[0]));
            prop_assert_eq!(world.statements.count(Generation::Served).await, Ok(rows[1]));
            Ok(())
        })?;
    }
}

async fn grown() -> World {
    let frames = (0..40).map(|n| Step::Frame { shard: n % 4, events: 3 });
    run(frames.collect()).await
}

#[tokio::test]
async fn a_row_that_was_changed_by_hand_is_found() {
    let world = grown().await;
    let change = |file: &str, sql: &str| {
        let connection = rusqlite::Connection::open(world.dir.path().join(file)).expect("opens");
        assert_eq!(connection.execute(sql, []).expect("changes"), 1);
    };
    change("records-a.sqlite", "UPDATE charge_records SET idx = 7 WHERE rowid = 5");
    let compared = world.source().rebuild(Model::Records, true, &|_| {}).await.expect("compares");
    assert!(compared.difference.expect("a difference").contains("index: 7"));
    change("statements-a.sqlite", "UPDATE blocks SET opening = opening + 1 WHERE rowid = 2");
    let compared = world.source().rebuild(Model::Statements, true, &|_| {}).await.expect("compares");
    assert!(compared.difference.is_some());
}

#[tokio::test]
async fn readers_see_the_one_or_the_other_and_a_stopped_rebuild_leaves_nothing() {
    let world = grown().await;
    let names = |world: &World| {
        let names = std::fs::read_dir(world.dir.path()).expect("lists");
        let mut names: Vec<_> =
            names.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.retain(|name| name.starts_with("records") && name.ends_with(".sqlite"));
        names.sort();
        names
    };
    let everything = RecordQuery { limit: 1_000, ..RecordQuery::default() };
    let before = world.records.page(Generation::Served, everything.clone()).await.expect("reads");
    world.records.begin().await.expect("begins");
    assert_eq!(names(&world), ["records-a.sqlite", "records-b.sqlite"]);
    assert_eq!(world.records.publish().await, Ok(false), "it has less than the served one");
    assert_eq!(world.records.page(Generation::Served, everything.clone()).await.as_ref(), Ok(&before));
    assert_eq!(world.records.page(Generation::Fresh, everything.clone()).await, Ok(vec![]));
    // The process ends here; the next one finds one file that is whole.
    let World { dir, records, statements, journal, .. } = world;
    drop((records, statements));
    let (records, statements) = open(dir.path());
    let source = Source { journal, records: records.clone(), statements };
    assert_eq!(records.page(Generation::Served, everything.clone()).await.as_ref(), Ok(&before));
    assert!(!dir.path().join("records-b.sqlite").exists());
    source.rebuild(Model::Records, false, &|_| {}).await.expect("rebuilds");
    assert!(!dir.path().join("records-a.sqlite").exists(), "the former one is gone");
    assert_eq!(records.page(Generation::Served, everything.clone()).await.as_ref(), Ok(&before));
    drop((records, source));
    let (records, _) = open(dir.path());
    assert_eq!(records.page(Generation::Served, everything).await, Ok(before), "the published one is served");
    let compared = compare::records(&*records).await;
    assert!(compared.is_err(), "there is nothing to compare with");
}
