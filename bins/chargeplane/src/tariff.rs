//! `chargeplane tariff price`: an OCPI CDR priced with an OCPI tariff, for checking one implementation against another.
//!
//! Reads two files and prints JSON (`docs/reference/tariff-price.md`); the rules are `protocol::ocpi`'s.

use crate::cli::TariffPriceArgs;
use crate::exit::{Code, Failure};
use crate::output;
use chargeplane_protocol::ocpi::{Document, price_documents, read::MAX_DOCUMENT_BYTES};
use std::io::Read;
use std::path::Path;

/// Prints the priced CDR. Ends as refused when a total of the CDR is another, not only rounded otherwise.
pub fn price(args: &TariffPriceArgs) -> Result<(), Failure> {
    let (tariff, cdr) = (text(&args.tariff)?, text(&args.cdr)?);
    let priced = price_documents(&tariff, &cdr, args.time_zone.as_deref()).map_err(|error| {
        let file = match error.document {
            Document::Tariff => &args.tariff,
            Document::Cdr => &args.cdr,
        };
        Failure::usage(format!("{}: {error}", file.display()))
    })?;
    let mut shown = serde_json::to_string_pretty(&priced).map_err(|e| Failure::internal(e.to_string()))?;
    shown.push('\n');
    output::write(&shown)?;
    let differ: Vec<&str> = priced.differences.iter().filter(|d| !d.rounding).map(|d| d.path.as_str()).collect();
    if differ.is_empty() {
        return Ok(());
    }
    let message = format!("{}: totals differ from what the tariff gives: {}", args.cdr.display(), differ.join(", "));
    Err(Failure::new(Code::Refused, message))
}

/// A file, no further than a document may be long: what is longer is refused where it is read.
fn text(path: &Path) -> Result<String, Failure> {
    let most = u64::try_from(MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most).read_to_string(&mut text))
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn example(file: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/examples").join(file)
    }

    #[test]
    fn the_example_is_priced_without_a_difference() {
        let (tariff, cdr) = (example("ocpi-tariff.json"), example("ocpi-cdr.json"));
        assert_eq!(price(&TariffPriceArgs { tariff, cdr, time_zone: None }), Ok(()));
    }

    #[test]
    fn the_message_names_the_file_and_the_path() {
        let (tariff, cdr) = (example("ocpi-cdr.json"), example("ocpi-cdr.json"));
        let failure = price(&TariffPriceArgs { tariff, cdr, time_zone: None }).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.message.contains("ocpi-cdr.json: $: missing field `elements`"), "{failure}");
    }
}
