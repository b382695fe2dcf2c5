use super::*;
use crate::exit::Code;
use std::io::Write;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Failure> {
    let file = file(text);
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(file.path()), environment)
}

fn refused(text: &str, environment: &[(&str, &str)]) -> String {
    let failure = load_text(text, environment).unwrap_err();
    assert_eq!(failure.code, Code::Usage);
    failure.message
}

#[test]
fn defaults_are_good() {
    let loaded = load(None, std::iter::empty()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.config.node.shards, 32);
}

#[test]
fn file_goes_over_default_and_environment_over_file() {
    let loaded = load_text(
        "[http]\nlisten = \"0.0.0.0:80\"\nmax_in_flight = 7\n[mqtt]\nbrokers = [\"a:1\", \"b:2\"]\n",
        &[("CHARGEPLANE__HTTP__LISTEN", "127.0.0.1:9000"), ("CHARGEPLANE_TOKEN", "not mine"), ("HOME", "/root")],
    )
    .unwrap();
    assert_eq!(loaded.config.http.listen, "127.0.0.1:9000");
    assert_eq!(loaded.config.http.max_in_flight, 7);
    assert_eq!(loaded.config.mqtt.brokers, ["a:1", "b:2"]);
    let shown = loaded.to_toml();
    assert!(shown.contains("listen = \"127.0.0.1:9000\" # CHARGEPLANE__HTTP__LISTEN"), "{shown}");
    assert!(shown.lines().any(|l| l.starts_with("max_in_flight = 7 # ") && l.ends_with(":3")), "{shown}");
    assert!(shown.contains("shards = 32 # default"), "{shown}");
    // What is printed is a configuration.
    let again = load_text(&shown, &[]).unwrap();
    assert_eq!(again.config, loaded.config);
}

#[test]
fn unknown_keys_are_refused_with_file_line_and_the_nearest_name() {
    let message = refused("[node]\nname = \"n1\"\n\n[http]\nlisen = \"127.0.0.1:1\"\n", &[]);
    assert!(message.contains(":5: unknown key `lisen` in [http]; did you mean `listen`?"), "{message}");
    let message = refused("[htpp]\nlisten = \"x\"\n", &[]);
    assert!(message.contains(":1: unknown section [htpp]; did you mean `http`?"), "{message}");
    let message = refused("[http]\nshards = 4\n", &[]);
    assert!(message.contains(":2: unknown key `shards` in [http]; `shards` is a key of [node]"), "{message}");
    let message = refused("", &[("CHARGEPLANE__HTTP__LISEN", "x")]);
    assert!(message.contains("did you mean `CHARGEPLANE__HTTP__LISTEN`?"), "{message}");
    let message = refused("node = 3\n", &[]);
    assert!(message.contains(":1: node is a section"), "{message}");
}

#[test]
fn wrong_types_and_wrong_values_are_refused_with_their_place() {
    let message = refused("[http]\nmax_in_flight = \"many\"\n", &[]);
    assert!(message.contains(":2: http.max_in_flight: expected an integer"), "{message}");
    let message = refused("[node]\nshards = 33\n", &[]);
    assert!(message.contains(":2: node.shards: write a power of two"), "{message}");
    let message = refused("[node]\nname = 'a b'\n[http]\nlisten = 'nowhere'\n", &[]);
    assert_eq!(message.lines().count(), 2, "{message}");
    let message = refused("", &[("CHARGEPLANE__POWER__LEASE_MS", "-1")]);
    assert!(message.starts_with("CHARGEPLANE__POWER__LEASE_MS: expected an integer"), "{message}");
    let message = refused("[mqtt]\nmode = 'external'\n", &[]);
    assert!(message.contains("mqtt.brokers: write [\"host:port\"]"), "{message}");
    let message = refused("[records]\nbackend = 'redis'\n", &[]);
    assert!(message.contains(":2: records.backend: write `sqlite` or `cql`"), "{message}");
    let message = refused("[telemetry]\nbackend = 'redis'\n", &[]);
    assert!(message.contains(":2: telemetry.backend: write `sqlite` or `cql`"), "{message}");
    let message = refused("[telemetry]\nbackend = 'cql'\n", &[]);
    assert!(message.contains("journal.cql_nodes"), "{message}");
    let message = refused("[records]\nbackend = 'cql'\n", &[]);
    assert!(message.contains("journal.cql_nodes: write [\"host:port\"]"), "{message}");
    let message = refused("[http\n", &[]);
    assert!(message.contains(":1: not TOML"), "{message}");
    let missing = load(Some(std::path::Path::new("/nonexistent.toml")), std::iter::empty()).unwrap_err();
    assert!(missing.message.contains("/nonexistent.toml"), "{missing}");
}

#[test]
fn an_option_goes_over_everything() {
    let mut loaded = load_text("[http]\nlisten = \"127.0.0.1:80\"\n", &[]).unwrap();
    loaded.set_by_option("--http-port", "http", "listen", "127.0.0.1:81").unwrap();
    assert!(loaded.to_toml().contains("listen = \"127.0.0.1:81\" # --http-port"));
}

#[test]
fn every_key_is_explained_and_the_reference_page_is_current() {
    for key in Config::keys() {
        assert!(key.doc.trim().len() > 10, "{}.{}", key.section, key.name);
        assert!(key.doc.trim().ends_with('.'), "{}.{}", key.section, key.name);
    }
    let written = include_str!("../../../../docs/reference/config.md");
    assert_eq!(written, reference_page(), "run: chargeplane config reference > docs/reference/config.md");
}
