//! What operators have earned: balance, statement, payouts.

use super::Call;
use crate::cli::{OperatorCommand, Output, PayoutArgs, StatementArgs};
use crate::client::encode;
use crate::exit::Failure;
use crate::output::{self, Column};
use serde_json::{Value, json};

const BALANCES: &[Column] = &[
    ("CURRENCY", "currency"),
    ("ENERGY", "energy"),
    ("SERVICE", "service"),
    ("FEES", "fees"),
    ("OVERSHOOT", "overshoot"),
    ("SHARES", "shares"),
    ("PAID OUT", "paid_out"),
    ("TOTAL", "total"),
];
const STATEMENT: &[Column] = &[
    ("AT", "at"),
    ("KIND", "kind"),
    ("AMOUNT", "amount"),
    ("BALANCE", "balance"),
    ("FRAMES", "frames"),
    ("TILL", "till"),
    ("ENTRY", "entry"),
    ("KEY", "key"),
];

impl Call {
    /// `chargeplane operator`.
    pub(super) fn operator(&self, command: &OperatorCommand) -> Result<(), Failure> {
        match command {
            OperatorCommand::Balance { operator } => {
                let answer = self.api.get(&format!("/operators/{}/balance", encode(operator)))?;
                output::list(self.output, items_of(&answer, "balances"), BALANCES)
            }
            OperatorCommand::Statement(args) => self.operator_statement(args),
            OperatorCommand::Payout(args) => self.payout(args),
        }
    }

    fn operator_statement(&self, args: &StatementArgs) -> Result<(), Failure> {
        let path = statement_path(args);
        let Some(limit) = args.limit else { return self.list(&path, STATEMENT) };
        let mut page = format!("{path}{}limit={limit}", if path.contains('?') { '&' } else { '?' });
        if let Some(cursor) = &args.cursor {
            page.push_str(&format!("&after={}", encode(cursor)));
        }
        let answer = self.api.get(&page)?;
        if self.output == Output::Json {
            return output::json(&answer);
        }
        output::list(self.output, items_of(&answer, "items"), STATEMENT)?;
        match &answer["next"] {
            Value::String(next) => output::write(&format!("more: --cursor {next}\n")),
            _ => Ok(()),
        }
    }

    fn payout(&self, args: &PayoutArgs) -> Result<(), Failure> {
        let PayoutArgs { operator, amount, to, to_bank, currency, key } = args;
        let mut body = json!({ "amount": amount });
        for (name, value) in [("to", to), ("to_bank", to_bank), ("currency", currency)] {
            if let Some(value) = value {
                body[name] = json!(value);
            }
        }
        let path = format!("/operators/{}/payouts", encode(operator));
        output::item(self.output, &self.keyed(&path, key, &body)?)
    }
}

fn items_of<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map_or(&[], Vec::as_slice)
}

/// The route of a statement with its filters.
fn statement_path(args: &StatementArgs) -> String {
    let filters = [("currency", &args.currency), ("from", &args.from), ("to", &args.to)];
    let filters = filters.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_deref()?))));
    let filters: Vec<String> = filters.chain(args.frames.then(|| "frames=true".to_owned())).collect();
    let path = format!("/operators/{}/statement", encode(&args.operator));
    if filters.is_empty() { path } else { format!("{path}?{}", filters.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_a_statement_are_encoded() {
        let args = |currency: Option<&str>, from: Option<&str>| StatementArgs {
            operator: "main/op1".to_owned(),
            currency: currency.map(str::to_owned),
            from: from.map(str::to_owned),
            to: None,
            frames: from.is_some(),
            limit: None,
            cursor: None,
        };
        assert_eq!(statement_path(&args(None, None)), "/operators/main%2Fop1/statement");
        let path = statement_path(&args(Some("CNY"), Some("2026-01-05T08:00:00Z")));
        assert_eq!(path, "/operators/main%2Fop1/statement?currency=CNY&from=2026-01-05T08%3A00%3A00Z&frames=true");
    }
}
