//! What the API answered, against the journal: MONEY-2 and MONEY-3 for top-ups, remote starts and stops.

use super::findings::Findings;
use super::ledger::Ledger;
use super::station::StationLog;
use crate::evidence::Line;
use crate::traffic::KEY_PREFIX;
use std::collections::BTreeMap;

/// Compares every line of the drill's own evidence with the log.
pub fn judge(lines: &[Line], ledger: &Ledger, stations: &StationLog, findings: &mut Findings) {
    let mut promised: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for line in lines {
        match line {
            Line::Opened { account, .. } => {
                let found = ledger.opened.contains(account);
                findings.check("MONEY-3", found, || format!("{account}: opened, but not in the log"));
            }
            Line::TopUp { key, account, amount, .. } => {
                promised.insert((account, key), *amount);
                let logged = ledger.top_ups.get(&(account.clone(), key.clone()));
                findings.check("MONEY-3", logged == Some(&i128::from(*amount)), || {
                    format!("{account}: top-up {key} of {amount} was acknowledged, the log has {logged:?}")
                });
            }
            Line::Repeat { key, first, status, again } => {
                findings.check("MONEY-2", (200..300).contains(status) && first == again, || {
                    format!("key {key}: answered {first}, and when repeated {status} {again}")
                });
            }
            Line::Conflict { key, status, problem } => {
                findings.check("MONEY-2", matches!(status, 409 | 422), || {
                    format!("key {key} with another amount was answered {status} {problem}")
                });
            }
            Line::Start { session: Some(session), account, charger, .. } => {
                let logged = stations.requested.get(session);
                let holds = logged.is_some_and(|(at, payer)| at == charger && payer == account);
                findings.check("MONEY-3", holds, || {
                    format!("{session}: its start at {charger} for {account} was acknowledged, the log has {logged:?}")
                });
            }
            Line::StartRepeat { key, session, status, again } => {
                let same = (200..300).contains(status) && again.as_ref() == Some(session);
                findings.check("MONEY-2", same, || {
                    format!("start {key}: answered {session}, and when repeated {status} {again:?}")
                });
            }
            Line::Stop { session, status, .. } if (200..300).contains(status) => {
                let over = stations.is_over(session);
                findings.check("CMD-1", over, || format!("{session}: its stop was acknowledged, it never ended"));
            }
            Line::Start { session: None, .. } | Line::Stop { .. } | Line::Burst { .. } => {}
        }
    }
    let starts = lines.iter().any(|line| matches!(line, Line::StartRepeat { .. }));
    findings.needs("MONEY-2", starts, "no start was ever repeated");
    // A top-up in the log that nobody was promised is money from nowhere: the drill repeats each until answered.
    // What somebody else does over the API meanwhile is his business.
    for (account, key) in ledger.top_ups.keys().filter(|(_, key)| key.starts_with(KEY_PREFIX)) {
        let known = promised.contains_key(&(account.as_str(), key.as_str()));
        findings.check("MONEY-2", known, || format!("{account}: the log has a top-up {key} that was never answered"));
    }
}

/// Who pays for the sessions that were started over the API: by session.
pub fn remote_payers(lines: &[Line]) -> BTreeMap<&str, &str> {
    fn payer(line: &Line) -> Option<(&str, &str)> {
        match line {
            Line::Start { session: Some(session), account, .. } => Some((session.as_str(), account.as_str())),
            _ => None,
        }
    }
    lines.iter().filter_map(payer).collect()
}
