//! The operator's commands: each is one request (or the pages of a list) and one printed answer.

mod operators;
mod plot;
mod power;
mod records;
mod telemetry;

use crate::cli::*;
use crate::client::{Api, Body, encode, new_key};
use crate::exit::Failure;
use crate::output::{self, Column};
use serde_json::{Value, json};
use std::io::Read;

const STATIONS: &[Column] = &[
    ("STATION", "id"),
    ("CITY", "city"),
    ("CHARGERS", "chargers"),
    ("ONLINE", "online"),
    ("CHARGING", "charging"),
    ("LIMIT W", "limit_w"),
    ("WORST W", "worst_w"),
    ("POWER W", "power_w"),
    ("DEMAND W", "demand_w"),
];
const CHARGERS: &[Column] = &[
    ("CHARGER", "id"),
    ("STATION", "station"),
    ("GATEWAY", "gateway"),
    ("ONLINE", "online"),
    ("STATE", "state"),
    ("SESSION", "session"),
    ("POWER W", "power_w"),
    ("GRANTED W", "granted_w"),
    ("REGISTER WH", "register_wh"),
];
const ACCOUNTS: &[Column] = &[
    ("ACCOUNT", "id"),
    ("CURRENCY", "currency"),
    ("KIND", "kind"),
    ("HOLDER", "holder"),
    ("STATUS", "status"),
    ("BALANCE", "balance"),
    ("HELD", "held"),
    ("AVAILABLE", "available"),
];
const STATEMENT: &[Column] = &[
    ("AT", "at"),
    ("KIND", "kind"),
    ("AMOUNT", "amount"),
    ("BALANCE", "balance"),
    ("SESSION", "session"),
    ("KEY", "key"),
    ("ENTRY", "entry"),
];
const AUDIT: &[Column] = &[
    ("AT", "at"),
    ("KIND", "kind"),
    ("AMOUNT", "amount"),
    ("KEY", "key"),
    ("SESSION", "session"),
    ("SEQUENCE", "sequence"),
    ("METER WH", "meter_wh"),
    ("NOTE", "note"),
    ("ENTRY", "entry"),
];
const SESSIONS: &[Column] = &[
    ("SESSION", "id"),
    ("STATE", "state"),
    ("CHARGER", "charger"),
    ("ACCOUNT", "account"),
    ("ORIGIN", "origin"),
    ("STARTED", "started_at"),
    ("METER START WH", "meter_start_wh"),
];
const RECORDS: &[Column] = &[
    ("ENDED", "ended_at"),
    ("SESSION", "session"),
    ("ACCOUNT", "account"),
    ("ENERGY WH", "energy_wh"),
    ("TOTAL", "total"),
    ("BILLED", "billed"),
    ("OVERSHOOT", "overshoot"),
    ("CURRENCY", "currency"),
    ("STOPPED BY", "stop_reason"),
];
const COMMANDS: &[Column] = &[
    ("COMMAND", "id"),
    ("CHARGER", "charger"),
    ("ACTION", "action"),
    ("OUTCOME", "outcome"),
    ("REASON", "reason"),
    ("ACCEPTED", "accepted_at"),
];
const SHARDS: &[Column] = &[
    ("SHARD", "shard"),
    ("STATE", "state"),
    ("EPOCH", "epoch"),
    ("LAST LSN", "last_lsn"),
    ("ROWS", "rows"),
    ("LIVE", "live"),
    ("PARKED", "parked"),
    ("QUARANTINED", "quarantined"),
];
const GATEWAYS: &[Column] = &[
    ("GATEWAY", "id"),
    ("STATION", "station"),
    ("ONLINE", "online"),
    ("ENROLLED", "enrolled"),
    ("ROTATING", "rotating"),
];
const DEAD_LETTERS: &[Column] =
    &[("ID", "id"), ("ENTITY", "entity"), ("AT", "at"), ("ERROR", "error"), ("MESSAGE", "message")];
const BALANCES: &[Column] =
    &[("SHARD", "shard"), ("ACCOUNT", "account"), ("CURRENCY", "currency"), ("BALANCE", "balance")];

/// Most entries that a node audits in one answer.
const MAX_AUDIT_PAGE: usize = 1_000;

/// Runs an operator's command.
pub fn run(connection: &Connection, command: &Command) -> Result<(), Failure> {
    let call = Call { api: Api::new(connection)?, output: connection.output };
    answered(&call, command)?;
    call.api.is_complete()
}

fn answered(call: &Call, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Station { command } => call.station(command),
        Command::Limit { command } => power::limit(call, command),
        Command::Charger { command } => call.charger(command),
        Command::Account { command } => call.account(command),
        Command::Operator { command } => call.operator(command),
        Command::Session { command } => call.session(command),
        Command::Record { command } => call.record(command),
        Command::Telemetry { command } => call.telemetry(command),
        Command::Order { command } => call.order(command),
        Command::Shard { command: ShardCommand::List } => call.list("/shards", SHARDS),
        Command::Gateway { command } => call.gateway(command),
        Command::Deadletter { command } => call.dead_letter(command),
        Command::Ledger { command: LedgerCommand::Balances } => call.list("/ledger/balances", BALANCES),
        Command::Apply(args) => call.apply(args),
        Command::Node(_)
        | Command::Dev(_)
        | Command::Config { .. }
        | Command::Allocate(_)
        | Command::Ledger { .. }
        | Command::Store { .. }
        | Command::Tariff { .. } => Err(Failure::internal("this command does not talk to a node")),
    }
}

struct Call {
    api: Api,
    output: Output,
}

impl Call {
    fn list(&self, path: &str, columns: &[Column]) -> Result<(), Failure> {
        self.list_most(path, columns, usize::MAX)
    }

    fn list_most(&self, path: &str, columns: &[Column], most: usize) -> Result<(), Failure> {
        output::list(self.output, &self.api.list(path, most)?, columns)
    }

    fn show(&self, path: &str) -> Result<(), Failure> {
        output::item(self.output, &self.api.get(path)?)
    }

    /// A request with an idempotency key: the given one, or a new one.
    fn keyed(&self, path: &str, key: &KeyArg, body: &Value) -> Result<Value, Failure> {
        let key = key.key.clone().map_or_else(new_key, Ok)?;
        self.api.call("POST", path, Some(&key), Body::Json(body))
    }

    fn station(&self, command: &StationCommand) -> Result<(), Failure> {
        match command {
            StationCommand::List => self.list("/stations", STATIONS),
            StationCommand::Show { station } => self.show(&format!("/stations/{}", encode(station))),
        }
    }

    fn charger(&self, command: &ChargerCommand) -> Result<(), Failure> {
        match command {
            ChargerCommand::List { station: None } => self.list("/chargers", CHARGERS),
            ChargerCommand::List { station: Some(station) } => {
                self.list(&format!("/chargers?station={}", encode(station)), CHARGERS)
            }
            ChargerCommand::Show { charger } => self.show(&format!("/chargers/{}", encode(charger))),
            ChargerCommand::Explain { charger } => power::explain(self, charger),
        }
    }

    fn account(&self, command: &AccountCommand) -> Result<(), Failure> {
        match command {
            AccountCommand::Open { account, currency, credit_limit, fleet, key } => {
                let kind = if credit_limit.is_some() { "credit" } else { "prepaid" };
                let holder = if *fleet { "fleet" } else { "personal" };
                let mut body = json!({ "account": account, "currency": currency, "kind": kind, "holder": holder });
                if let Some(limit) = credit_limit {
                    body["credit_limit"] = json!(limit);
                }
                output::item(self.output, &self.keyed("/accounts", key, &body)?)
            }
            AccountCommand::List => self.list("/accounts", ACCOUNTS),
            AccountCommand::Show { account } => self.show(&format!("/accounts/{}", encode(account))),
            AccountCommand::TopUp { account, amount, key } => {
                let path = format!("/accounts/{}/top-ups", encode(account));
                output::item(self.output, &self.keyed(&path, key, &json!({ "amount": amount }))?)
            }
            AccountCommand::Refund { account, amount, key } => {
                self.operated(account, "refunds", key, &json!({ "amount": amount }))
            }
            AccountCommand::Adjust { account, amount, reason, key } => {
                self.operated(account, "adjustments", key, &json!({ "amount": amount, "reason": reason }))
            }
            AccountCommand::Freeze { account, reason, key } => {
                self.operated(account, "freeze", key, &json!({ "reason": reason }))
            }
            AccountCommand::Unfreeze { account, key } => self.operated(account, "unfreeze", key, &json!({})),
            AccountCommand::Release { account, session, key } => {
                self.operated(account, "releases", key, &json!({ "session": session }))
            }
            AccountCommand::Close { account, key } => self.operated(account, "close", key, &json!({})),
            AccountCommand::Transfer { from, to, amount, key } => {
                self.operated(from, "transfers", key, &json!({ "to": to, "amount": amount }))
            }
            AccountCommand::ShowTransfer { transfer } => self.show(&format!("/transfers/{}", encode(transfer))),
            AccountCommand::Audit { account, entry } => self.audit(account, entry.as_deref()),
            AccountCommand::Statement { account } => {
                self.list(&format!("/accounts/{}/statement", encode(account)), STATEMENT)
            }
        }
    }

    /// A keyed request to an account, and its answer.
    fn operated(&self, account: &str, what: &str, key: &KeyArg, body: &Value) -> Result<(), Failure> {
        output::item(self.output, &self.keyed(&format!("/accounts/{}/{what}", encode(account)), key, body)?)
    }

    fn audit(&self, account: &str, entry: Option<&str>) -> Result<(), Failure> {
        let path = format!("/accounts/{}/audit", encode(account));
        let Some(entry) = entry else {
            let items = self.api.list_in_pages(&path, usize::MAX, MAX_AUDIT_PAGE)?;
            return output::list(self.output, &items, AUDIT);
        };
        let answer = self.api.get(&format!("{path}?entry={}", encode(entry)))?;
        output::item(self.output, &answer["items"][0])
    }

    fn session(&self, command: &SessionCommand) -> Result<(), Failure> {
        match command {
            SessionCommand::Start { charger, account, connector, key } => {
                let body = json!({ "charger": charger, "account": account, "connector": connector });
                output::item(self.output, &self.keyed("/sessions", key, &body)?)
            }
            SessionCommand::Stop { session, key } => {
                let path = format!("/sessions/{}/stop", encode(session));
                output::item(self.output, &self.keyed(&path, key, &json!({}))?)
            }
            SessionCommand::List => self.list("/sessions", SESSIONS),
            SessionCommand::Show { session } => self.show(&format!("/sessions/{}", encode(session))),
        }
    }

    fn order(&self, command: &ChargerOrder) -> Result<(), Failure> {
        let (charger, key, body) = match command {
            ChargerOrder::List { charger: None } => return self.list("/commands", COMMANDS),
            ChargerOrder::List { charger: Some(charger) } => {
                return self.list(&format!("/chargers/{}/commands", encode(charger)), COMMANDS);
            }
            ChargerOrder::Show { command } => return self.show(&format!("/commands/{}", encode(command))),
            ChargerOrder::Reset { charger, key } => (charger, key, json!({ "action": "reset" })),
            ChargerOrder::Unlock { charger, connector, key } => {
                (charger, key, json!({ "action": "unlock", "connector": connector }))
            }
            ChargerOrder::SetAvailability { charger, service, key } => {
                (charger, key, json!({ "action": "set_availability", "available": *service == Service::In }))
            }
        };
        output::item(self.output, &self.keyed(&format!("/chargers/{}/commands", encode(charger)), key, &body)?)
    }

    fn gateway(&self, command: &GatewayCommand) -> Result<(), Failure> {
        match command {
            GatewayCommand::List => self.list("/gateways", GATEWAYS),
            GatewayCommand::Enroll { gateway } => {
                let path = format!("/gateways/{}/enrolment", encode(gateway));
                output::item(self.output, &self.api.call("POST", &path, None, Body::Empty)?)
            }
            GatewayCommand::Rotate { gateway } => {
                let path = format!("/gateways/{}/rotation", encode(gateway));
                output::item(self.output, &self.api.call("POST", &path, None, Body::Empty)?)
            }
            GatewayCommand::Revoke { gateway } => {
                let path = format!("/gateways/{}/enrolment", encode(gateway));
                self.api.call("DELETE", &path, None, Body::Empty)?;
                output::done(
                    self.output,
                    &format!("{gateway} is cut off and may no longer connect"),
                    &json!({ "revoked": gateway }),
                )
            }
        }
    }

    fn dead_letter(&self, command: &DeadLetterCommand) -> Result<(), Failure> {
        match command {
            DeadLetterCommand::List => self.list("/dead-letters", DEAD_LETTERS),
            DeadLetterCommand::Retry { id } => {
                self.api.call("POST", &format!("/dead-letters/{}/retry", encode(id)), None, Body::Empty)?;
                output::done(self.output, &format!("{id} was handled"), &json!({ "retried": id }))
            }
            DeadLetterCommand::Drop { id } => {
                self.api.call("DELETE", &format!("/dead-letters/{}", encode(id)), None, Body::Empty)?;
                output::done(self.output, &format!("{id} is dropped"), &json!({ "dropped": id }))
            }
        }
    }

    fn apply(&self, args: &ApplyArgs) -> Result<(), Failure> {
        let name = args.file.display();
        let mut text = Vec::new();
        let read = if args.file.as_os_str() == "-" {
            std::io::stdin().read_to_end(&mut text)
        } else {
            std::fs::File::open(&args.file).and_then(|mut file| file.read_to_end(&mut text))
        };
        read.map_err(|e| Failure::usage(format!("cannot read {name}: {e}")))?;
        let path = format!("/catalogue?dry_run={}&allow_empty={}", args.dry_run, args.allow_empty);
        let answer = self
            .api
            .call("POST", &path, None, Body::Yaml(&text))
            .map_err(|failure| Failure { message: format!("{name}: {failure}"), ..failure })?;
        if self.output == Output::Json {
            return output::json(&answer);
        }
        output::write(&difference(&answer, args.dry_run))
    }
}

/// The lines of a difference, and what became of them.
fn difference(answer: &Value, dry_run: bool) -> String {
    let changes = answer["changes"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text: String = changes.iter().filter_map(Value::as_str).map(|line| format!("{line}\n")).collect();
    let count = changes.len();
    text.push_str(&match (count, dry_run) {
        (0, _) => format!("no change; version {}\n", answer["from_version"]),
        (_, true) => format!("{count} changes to version {}; nothing was applied (dry run)\n", answer["from_version"]),
        (_, false) => {
            format!("{count} changes applied; version {} -> {}\n", answer["from_version"], answer["to_version"])
        }
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_says_whether_it_was_applied() {
        let answer = json!({ "from_version": 3, "to_version": 4, "changes": ["+ charger main/c1"] });
        assert_eq!(difference(&answer, false), "+ charger main/c1\n1 changes applied; version 3 -> 4\n");
        assert!(difference(&answer, true).contains("nothing was applied"));
        let same = json!({ "from_version": 3, "to_version": 3, "changes": [] });
        assert_eq!(difference(&same, false), "no change; version 3\n");
    }
}
