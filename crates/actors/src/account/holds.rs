//! Holds that end by time (DESIGN section 5, MONEY-4).
//!
//! A hold ends when nothing was read of its session for [`NodeConfig::hold_lasts`] since the last debit or, before the
//! first, since the authorisation: both are in the events. It is given back [`NodeConfig::ring_age`] after that, when
//! the ring of a gateway that was cut off can hold nothing of the session any more. The shard looks through its map in
//! bounded steps, so accounts without an actor are looked at too; the account itself decides, on all it knows.

use super::AccountMessage;
use crate::admission::Permit;
use crate::family::{AccountKey, AccountMap};
use crate::reply::Reply;
use crate::shared::NodeConfig;
use chargeplane_domain::account::AccountCommand;
use chargeplane_domain::ids::{AccountId, SessionId};
use chargeplane_domain::units::Timestamp;
use std::ops::Bound;
use std::time::Duration;

/// Accounts and sessions looked at in one step. A shard of 100,000 accounts is seen in under a minute.
const LOOKED_AT: usize = 4_000;

/// Holds ended in one step: the rest is found again.
const ENDED_AT_ONCE: usize = 64;

/// Where the next step begins.
#[derive(Debug, Default)]
pub struct HoldSweep {
    /// Behind this account and session; none: from the first on.
    at: Option<(AccountId, Option<SessionId>)>,
}

/// Looks at the next rows, and tells accounts whose sessions' holds are to end.
pub(crate) fn sweep(
    map: &AccountMap,
    sweep: &mut HoldSweep,
    config: &NodeConfig,
    now: Timestamp,
) -> Vec<(AccountKey, AccountMessage)> {
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let quiet_since = now.plus_ms(ms(config.hold_lasts).saturating_add(ms(config.ring_age)).saturating_neg());
    let (mut due, mut looked_at) = (Vec::new(), 0usize);
    let stopped = sweep.at.take();
    let from = match &stopped {
        Some((account, Some(_))) => Bound::Included(account),
        Some((account, None)) => Bound::Excluded(account),
        None => Bound::Unbounded,
    };
    for (id, account) in map.accounts.range::<AccountId, _>((from, Bound::Unbounded)) {
        looked_at = looked_at.saturating_add(1);
        // The account that the last step stopped in is looked at from its next session on.
        let behind = match &stopped {
            Some((in_account, Some(session))) if in_account == id => Bound::Excluded(session),
            _ => Bound::Unbounded,
        };
        if account.open_sessions() > 0 {
            for (session, held) in account.holds.range::<SessionId, _>((behind, Bound::Unbounded)) {
                looked_at = looked_at.saturating_add(1);
                if held.is_open() && held.metered_at <= quiet_since {
                    due.push((AccountKey(id.clone()), end(session, quiet_since, now)));
                }
                if looked_at >= LOOKED_AT || due.len() >= ENDED_AT_ONCE {
                    sweep.at = Some((id.clone(), Some(session.clone())));
                    return due;
                }
            }
        }
        if looked_at >= LOOKED_AT {
            sweep.at = Some((id.clone(), None));
            return due;
        }
    }
    due
}

fn end(session: &SessionId, quiet_since: Timestamp, at: Timestamp) -> AccountMessage {
    let command = Box::new(AccountCommand::EndHold { session: session.clone(), quiet_since, at });
    AccountMessage::Command { command, reply: Reply::ignored(), permit: Permit::internal() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chargeplane_domain::account::{self, AccountKind, Holder};
    use chargeplane_domain::tariff::fees::Fees;
    use chargeplane_domain::tariff::{Price, Slots, Tariff};
    use chargeplane_domain::units::{Currency, Money};
    use std::sync::Arc;

    /// Accounts with as many sessions each, authorised at the second of their number.
    fn map(sessions: &[usize]) -> AccountMap {
        let currency = Currency::new("CNY").unwrap();
        let price = Price { energy: Money(10_000), service: Money(0) };
        let tariff = Tariff { currency, prices: [price; 4], slots: Slots::uniform(2).unwrap(), fees: Fees::NONE };
        let mut map = AccountMap::default();
        for (n, count) in sessions.iter().enumerate() {
            let id: AccountId = format!("a{n}").parse().unwrap();
            let mut state = None;
            let open = AccountCommand::Open {
                key: "o".into(),
                currency,
                kind: AccountKind::Credit { limit: Money(1_000_000_000) },
                holder: Holder::Fleet,
                at: Timestamp(0),
            };
            let authorise = |number: usize| AccountCommand::Authorise {
                session: format!("c{n}.{number}").parse().unwrap(),
                operator: "op1".parse().unwrap(),
                tariff: tariff.clone(),
                split: None,
                want: Money(2_000),
                reserve: Money(0),
                at: Timestamp(number as i64 * 1_000),
            };
            for command in std::iter::once(open).chain((0..*count).map(authorise)) {
                let event = account::decide(state.as_ref(), &id, &command).event.unwrap();
                account::apply(&mut state, &id, &event).unwrap();
            }
            map.accounts.insert(id, Arc::new(state.unwrap()));
        }
        map
    }

    fn config() -> NodeConfig {
        let mut config = NodeConfig::new("n1");
        (config.hold_lasts, config.ring_age) = (Duration::from_secs(10), Duration::from_secs(5));
        config
    }

    fn names(due: Vec<(AccountKey, AccountMessage)>) -> Vec<String> {
        let session = |message| match message {
            AccountMessage::Command { command, .. } => match *command {
                AccountCommand::EndHold { session, .. } => session.local().to_owned(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        due.into_iter().map(|(_, message)| session(message)).collect()
    }

    #[test]
    fn a_hold_is_due_when_its_end_and_the_age_of_the_ring_are_over() {
        let (map, mut at) = (map(&[2, 0, 1]), HoldSweep::default());
        assert_eq!(names(sweep(&map, &mut at, &config(), Timestamp(14_999))), [""; 0]);
        assert_eq!(names(sweep(&map, &mut at, &config(), Timestamp(15_000))), ["c0.0", "c2.0"]);
        assert_eq!(names(sweep(&map, &mut at, &config(), Timestamp(16_000))), ["c0.0", "c0.1", "c2.0"]);
    }

    #[test]
    fn every_session_is_seen_however_many_there_are() {
        let sessions = [9_000, 1, 0, 3, 100];
        let (map, mut at, mut seen) = (map(&sessions), HoldSweep::default(), std::collections::BTreeSet::new());
        let mut steps = 0;
        while seen.len() < sessions.iter().sum::<usize>() {
            let due = names(sweep(&map, &mut at, &config(), Timestamp(i64::from(i32::MAX))));
            assert!(due.len() <= ENDED_AT_ONCE);
            for name in due {
                assert!(seen.insert(name), "no session is looked at twice before all were");
            }
            steps += 1;
            assert!(steps < 1_000);
        }
        // Nothing due: a step looks at so much and no more.
        let mut steps = 0;
        at = HoldSweep::default();
        loop {
            assert!(sweep(&map, &mut at, &config(), Timestamp(0)).is_empty());
            steps += 1;
            if at.at.is_none() {
                break;
            }
        }
        assert_eq!(steps, 3);
    }
}
