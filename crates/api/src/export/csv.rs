//! Charge records as CSV: RFC 4180, UTF-8, one header row, lines that end with CR LF.
//!
//! Amounts are decimals with four places in `currency`, energies integer Wh, moments RFC 3339 in UTC. The columns are
//! described in `docs/reference/charge-records.md`; new ones are added at the end.

use crate::extract::rfc3339;
use chargeplane_actors::ports::{RecordId, StoredRecord};
use std::borrow::Cow;

/// The header row.
pub(super) const HEADER: &str = "id,tenant,operator,city,station,charger,connector,account,session,started_at,\
ended_at,time_zone,month,meter_start_wh,meter_stop_wh,energy_wh,billed_wh,overshoot_wh,sharp_wh,peak_wh,flat_wh,\
valley_wh,sharp_energy_price,sharp_service_price,peak_energy_price,peak_service_price,flat_energy_price,\
flat_service_price,valley_energy_price,valley_service_price,energy_amount,service_amount,total,billed,overshoot,\
currency,stop_reason,shard,lsn,index,charging_ms,idle_ms,fees_amount\r\n";

/// One record.
pub(super) fn row(stored: &StoredRecord) -> String {
    let record = &stored.record;
    let mut row = Row::default();
    row.value(RecordId::of(&record.session)).text(record.session.tenant()).text(record.operator.as_str());
    row.text(&record.city).text(record.station.as_str()).text(record.charger.as_str()).value(record.connector.0);
    row.text(record.account.as_str()).text(record.session.as_str());
    row.value(rfc3339(record.started_at)).value(rfc3339(record.ended_at)).text(&record.time_zone).value(record.month);
    for energy in [record.meter_start, record.meter_stop, record.energy, record.billed_wh, record.overshoot_wh] {
        row.value(energy.0);
    }
    for energy in record.by_period {
        row.value(energy.0);
    }
    for price in record.tariff.prices {
        row.value(price.energy).value(price.service);
    }
    for amount in [record.energy_amount, record.service_amount, record.total, record.billed, record.overshoot] {
        row.value(amount);
    }
    row.value(record.currency).value(record.stop_reason.code());
    row.value(stored.shard).value(stored.lsn).value(stored.index);
    row.value(record.time.charging_ms).value(record.time.idle_ms).value(record.fees_amount);
    row.0 + "\r\n"
}

#[derive(Default)]
struct Row(String);

impl Row {
    /// A value that this program makes: it needs no quotes and can be no formula.
    fn value(&mut self, value: impl std::fmt::Display) -> &mut Self {
        self.raw(&value.to_string())
    }

    /// A text from outside.
    fn text(&mut self, text: &str) -> &mut Self {
        self.raw(&field(text))
    }

    fn raw(&mut self, field: &str) -> &mut Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(field);
        self
    }
}

/// A field that no spreadsheet takes for a formula, in quotes where RFC 4180 wants them.
///
/// What begins with `=`, `+`, `-`, `@`, a tab or a line's end gets an apostrophe before it: spreadsheets would run it.
fn field(text: &str) -> Cow<'_, str> {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let text = if formula { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) };
    if text.contains(['"', ',', '\r', '\n']) { Cow::Owned(format!("\"{}\"", text.replace('"', "\"\""))) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::ocpi::tests::record;
    use chargeplane_domain::placement::{Family, ShardId};

    /// Reads one line as RFC 4180 says, for the tests.
    fn fields(line: &str) -> Vec<String> {
        let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
        let mut rest = line.chars().peekable();
        while let Some(c) = rest.next() {
            match (c, quoted) {
                ('"', true) if rest.peek() == Some(&'"') => field.extend(rest.next()),
                ('"', _) => quoted = !quoted,
                (',', false) => fields.push(std::mem::take(&mut field)),
                (c, _) => field.push(c),
            }
        }
        fields.push(field);
        fields
    }

    #[test]
    fn a_row_has_the_columns_of_the_header_and_reads_back() {
        let mut record = record();
        record.city = "=HYPERLINK(\"http://x\",\"a\"),\r\nb".to_owned();
        let shard = ShardId { family: Family::Station, index: 3 };
        let line = row(&StoredRecord { shard, lsn: 7, index: 2, record: record.clone() });
        let (names, values) = (fields(HEADER.trim_end()), fields(line.strip_suffix("\r\n").unwrap()));
        assert_eq!(names.len(), values.len(), "{line}");
        let value = |name: &str| values[names.iter().position(|n| n == name).unwrap()].as_str();
        assert_eq!(value("city"), format!("'{}", record.city), "no formula, and nothing lost");
        assert_eq!((value("id").len(), value("session")), (36, "main/c1.7"));
        assert_eq!((value("peak_wh"), value("peak_energy_price")), ("4000", "1.0000"));
        assert_eq!((value("total"), value("currency"), value("index")), ("13.3000", "CNY", "2"));
        assert_eq!((value("charging_ms"), value("idle_ms"), value("fees_amount")), ("3300000", "300000", "0.0000"));
        assert_eq!((value("month"), value("ended_at")), ("2026-01", "2026-01-05T04:30:00.000Z"));
        let page = include_str!("../../../../docs/reference/charge-records.md");
        for name in names {
            let documented = page.contains(&format!("`{name}`"));
            assert!(documented, "docs/reference/charge-records.md lacks the column {name}");
        }
    }

    #[test]
    fn what_a_spreadsheet_would_run_is_text() {
        for (text, expected) in [
            ("-1+1", "'-1+1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\tx", "'\tx"),
            ("Suzhou", "Suzhou"),
            ("a-b", "a-b"),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=1,2", "\"'=1,2\""),
        ] {
            assert_eq!(field(text), expected);
        }
    }
}
