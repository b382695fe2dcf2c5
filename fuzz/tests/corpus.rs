//! The corpus as plain tests, with simple damage to each of its files.

use chargeplane_fuzz::TARGETS;
use std::path::Path;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

/// Runs a target on a corpus: as it is, cut, and with bytes changed, at about `places` places of each file.
fn run(target: &str, places: usize) {
    let check = TARGETS.iter().find(|(name, _)| *name == target).unwrap().1;
    let corpus = corpus(target);
    assert!(corpus.len() >= 3, "{target} has {} seeds", corpus.len());
    for (name, seed) in corpus {
        let guard = |what: String, bytes: &[u8]| {
            let checked = std::panic::catch_unwind(|| check(bytes));
            assert!(checked.is_ok(), "{name}, {what}");
        };
        guard("as it is".to_owned(), &seed);
        let step = (seed.len() / places).max(1);
        for at in (0..seed.len()).step_by(step) {
            guard(format!("cut at {at}"), &seed[..at]);
            for change in [0x01, 0x80, 0xff] {
                let mut changed = seed.clone();
                changed[at] ^= change;
                guard(format!("byte {at} changed by {change:#x}"), &changed);
            }
        }
    }
}

#[test]
fn envelope() {
    run("envelope", 400);
}

#[test]
fn batch() {
    run("batch", 2_000);
}

#[test]
fn chunk() {
    run("chunk", 1_000);
}

#[test]
fn ring() {
    run("ring", 40);
}
