use super::*;

fn config_with_catalogue(text: &str) -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catalogue.yaml");
    std::fs::write(&file, text).unwrap();
    let mut config = Config::default();
    config.node.catalogue_file = file.display().to_string();
    (dir, config)
}

#[test]
fn a_bad_catalogue_stops_the_start_with_what_where_and_what_to_write() {
    assert_eq!(catalogue_of(&Config::default()).unwrap(), None);
    let (_dir, config) = config_with_catalogue("gateways:\n  g1: {statoin: s1}\n");
    let failure = catalogue_of(&config).unwrap_err();
    assert_eq!(failure.code, Code::Usage);
    assert!(failure.message.contains("catalogue.yaml:2:"), "{failure}");
    let (_dir, config) = config_with_catalogue("gateways:\n  g1: {station: s1}\n");
    let failure = catalogue_of(&config).unwrap_err();
    assert!(failure.message.contains("gateways.main/g1.station: there is no station main/s1"), "{failure}");
    let mut config = Config::default();
    config.node.catalogue_file = "/nonexistent.yaml".into();
    assert!(catalogue_of(&config).unwrap_err().message.contains("/nonexistent.yaml"));
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let held = bind("127.0.0.1:0").await.unwrap();
    let address = held.local_addr().unwrap().to_string();
    let failure = bind(&address).await.unwrap_err();
    assert_eq!(failure.code, Code::Busy);
    assert!(failure.message.contains(&address), "{failure}");
    assert_eq!(bind("203.0.113.1:1").await.unwrap_err().code, Code::Usage);
}

#[test]
fn a_data_directory_in_use_names_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let _held = DataDir::lock(dir.path()).unwrap();
    let failure = open_failure(DataDir::lock(dir.path()).unwrap_err());
    assert_eq!(failure.code, Code::Busy);
    assert!(failure.message.contains(&std::process::id().to_string()), "{failure}");
}

#[test]
fn tokens_come_from_the_data_directory_or_from_the_file_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default();
    let own = tokens(&config, dir.path()).unwrap();
    let token = data_dir::read_token(dir.path()).unwrap();
    assert!(own.scope_of(&token).is_some());
    let mut config = Config::default();
    config.http.token_file = dir.path().join("absent").display().to_string();
    assert_eq!(tokens(&config, dir.path()).unwrap_err().code, Code::Usage);
}

#[test]
fn the_configuration_reaches_the_node() {
    let mut config = Config::default();
    let of_the_actors = NodeConfig::new("node-1");
    // A clock is no setting: it begins with the node.
    let defaults = NodeConfig { clock: of_the_actors.clock.clone(), ..node_config(&config) };
    assert_eq!(format!("{defaults:?}"), format!("{of_the_actors:?}"), "the defaults differ");
    config.power.lease_ms = 5_000;
    config.node.shards = 8;
    let node = node_config(&config);
    assert_eq!((node.lease, node.shards), (Duration::from_secs(5), 8));
}

#[test]
fn an_address_for_all_is_reached_over_loopback() {
    let text = |address: &str| reachable(address.parse().unwrap()).to_string();
    assert_eq!(text("0.0.0.0:80"), "127.0.0.1:80");
    assert_eq!(text("[::]:80"), "[::1]:80");
    assert_eq!(text("192.0.2.1:80"), "192.0.2.1:80");
}

#[tokio::test]
async fn a_journal_that_ends_before_what_was_answered_for_is_not_opened() {
    use chargeplane_actors::ports::{Generation, StatementBatch, Statements as _};
    use chargeplane_domain::placement::{Family, ShardId};
    let dir = tempfile::tempdir().unwrap();
    let stores = Stores::open(&DataDir::lock(dir.path()).unwrap()).unwrap();
    let remedy = records::remedy(dir.path(), "statements");
    assert_eq!(records::refuse_ahead(&stores.statements, &stores.journal, &remedy).await, Ok(()));
    let shard = ShardId { family: Family::Account, index: 3 };
    let seen = StatementBatch { shard, after_lsn: 0, upto_lsn: 9, entries: Vec::new() };
    stores.statements.add(Generation::Served, seen).await.unwrap();
    let failure = records::refuse_ahead(&stores.statements, &stores.journal, &remedy).await.unwrap_err();
    assert_eq!(failure.code, Code::Usage);
    assert!(failure.message.contains("ends with frame 0 of account-0003, and frame 9"), "{failure}");
    assert!(failure.message.contains("statements-*.sqlite"), "{failure}");
}

#[test]
fn an_export_of_a_directory_without_a_journal_is_refused_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let connection = Connection { data_dir: Some(absent.clone()), ..Connection::default() };
    let args = crate::cli::ArchiveArgs { file: dir.path().join("books.cpl"), config: None };
    let failure = crate::archive::export(&connection, &args).unwrap_err();
    assert_eq!(failure.code, Code::Usage);
    assert!(failure.message.contains("journal.sqlite; give the node's data directory"), "{failure}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "neither a directory nor a file");
    // A journal that is there and has nothing is no backup either.
    drop(Stores::open(&DataDir::lock(&absent).unwrap()).unwrap());
    let failure = crate::archive::export(&connection, &args).unwrap_err();
    assert!(failure.message.contains("has no frame"), "{failure}");
    assert!(!args.file.exists());
}

/// A whole node on a data directory, from its start to its end: stores, broker, link, HTTP and the books' front.
async fn one_life(config: &Config) {
    let dir = DataDir::lock(&config.node.data_dir).expect("nobody has it");
    let tokens = tokens(config, dir.path()).unwrap();
    let (node, _) = start_node(config, &dir).await.unwrap();
    let handle = node.handle();
    let wanted = catalogue_of(config).unwrap().expect("a file");
    apply_file(&handle, wanted).await.unwrap();
    let (link, broker) = connect(config, &node).await.unwrap();
    let books =
        LedgerServer::start(bind("127.0.0.1:0").await.unwrap(), handle.clone(), tokens.clone(), config).unwrap();
    let options = ApiOptions {
        tokens,
        metrics: Arc::new(String::new),
        open_pages: true,
        max_in_flight: 10,
        cdr_terms: config.cdr_terms(),
    };
    let http = bind("127.0.0.1:0").await.unwrap();
    let server = HttpServer::start(http, chargeplane_api::router(handle, options), config);
    assert!(wind_down(node, link, broker, (server, Some(books))).await, "drained");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_drained_holds_nothing_and_the_next_one_starts_in_the_same_process() {
    let (dir, mut config) = config_with_catalogue(include_str!("../../../../scenarios/example-catalogue.yaml"));
    config.node.data_dir = dir.path().join("data").display().to_string();
    (config.node.shards, config.mqtt.listen) = (2, "127.0.0.1:0".to_owned());
    for life in 0..2 {
        one_life(&config).await;
        // Actors and threads that were told to end are given the time to; a minute on the slowest machine.
        let mut tries = 0;
        while let Err(error) = DataDir::lock(&config.node.data_dir) {
            tries += 1;
            assert!(tries < 600, "life {life} has left something: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
