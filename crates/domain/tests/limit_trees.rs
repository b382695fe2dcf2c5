//! Limit trees whose answers other projects publish (`data/limit-trees.json`): ours beside theirs.

use chargeplane_domain::allocation::file::AllocationFile;
use chargeplane_domain::allocation::{check, water_fill};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Vectors {
    sources: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    from: String,
    theirs: BTreeMap<String, i64>,
    /// Where ours differs.
    ours: Option<BTreeMap<String, i64>>,
    why: Option<String>,
    file: AllocationFile,
}

#[test]
fn our_answer_is_theirs_or_the_file_says_why_not() {
    let vectors: Vectors = serde_json::from_str(include_str!("data/limit-trees.json")).expect("the file");
    assert_eq!(vectors.sources.len(), 2);
    let mut same = 0;
    for case in &vectors.cases {
        let posed = case.file.pose().unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let allocation = water_fill(&posed.problem);
        assert_eq!(check(&posed.problem, &allocation), Ok(()), "{}", case.name);
        let named = case.file.connectors.iter().zip(&allocation.watts);
        let ours: BTreeMap<String, i64> = named.map(|(connector, watts)| (connector.id.clone(), watts.0)).collect();
        let wanted = case.ours.as_ref().unwrap_or(&case.theirs);
        assert_eq!(&ours, wanted, "{} ({})", case.name, case.from);
        assert_eq!(case.ours.is_some(), case.why.is_some(), "{}: a difference has a reason", case.name);
        assert!(case.ours.as_ref() != Some(&case.theirs), "{}: this is no difference", case.name);
        same += usize::from(case.ours.is_none());
    }
    assert_eq!((vectors.cases.len(), same), (22, 18));
}
