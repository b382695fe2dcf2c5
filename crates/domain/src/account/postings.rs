//! What an account's events are in the books of its shard, and in watt-hours.

use crate::account::AccountEvent;
use crate::ids::{AccountId, OperatorId};
use crate::ledger::{LedgerAccount, Posting};
use crate::split::PartyShare;
use crate::tariff::Priced;
use crate::units::{Currency, Money, WattHours};

/// The part of `meter` that counts as not paid when `unpaid` of its price `total` is not paid: the
/// proportion, rounded up to whole watt-hours. So it is zero if and only if `unpaid` is zero (or nothing was metered
/// and what is not paid are fees), never more than `meter`, and the rest counts as billed.
///
/// ```
/// use chargeplane_domain::account::unpaid_energy;
/// use chargeplane_domain::units::{Money, WattHours};
/// assert_eq!(unpaid_energy(WattHours(1_000), Money(9_000), Money(1)), WattHours(1));
/// assert_eq!(unpaid_energy(WattHours(1_000), Money(9_000), Money(9_000)), WattHours(1_000));
/// ```
pub fn unpaid_energy(meter: WattHours, total: Money, unpaid: Money) -> WattHours {
    if !unpaid.is_positive() || !total.is_positive() {
        return WattHours::ZERO;
    }
    let total = i128::from(total.0);
    let scaled = i128::from(meter.0).saturating_mul(i128::from(unpaid.0));
    let up = scaled.saturating_add(total.saturating_sub(1)).checked_div_euclid(total).unwrap_or(0);
    WattHours(i64::try_from(up).unwrap_or(i64::MAX)).min(meter)
}

/// The entry of an event in the books of its shard: sums to zero (MONEY-1). Empty when no money moves;
/// a hold does not move money.
pub fn postings(id: &AccountId, event: &AccountEvent) -> Vec<Posting> {
    let legs = match event {
        AccountEvent::ToppedUp { currency, amount, .. } => vec![
            (LedgerAccount::Driver(id.clone()), *currency, *amount),
            (LedgerAccount::TopUpSource { tenant: id.tenant_id(), currency: *currency }, *currency, amount.negated()),
        ],
        AccountEvent::Refunded { currency, amount, .. } => vec![
            (LedgerAccount::Driver(id.clone()), *currency, amount.negated()),
            (LedgerAccount::TopUpSource { tenant: id.tenant_id(), currency: *currency }, *currency, *amount),
        ],
        AccountEvent::Adjusted { currency, amount, .. } => vec![
            (LedgerAccount::Driver(id.clone()), *currency, *amount),
            (LedgerAccount::Adjustment { tenant: id.tenant_id(), currency: *currency }, *currency, amount.negated()),
        ],
        AccountEvent::TransferredOut { currency, amount, .. } => in_flight(id, *currency, *amount),
        AccountEvent::TransferredIn { currency, amount, .. }
        | AccountEvent::TransferReturned { currency, amount, .. } => in_flight(id, *currency, amount.negated()),
        AccountEvent::Collected { operator, currency, amount, .. } => vec![
            (LedgerAccount::Driver(id.clone()), *currency, *amount),
            (LedgerAccount::Collected { operator: operator.clone(), currency: *currency }, *currency, amount.negated()),
        ],
        AccountEvent::PaidOut { currency, amount, .. } => vec![
            (LedgerAccount::Driver(id.clone()), *currency, amount.negated()),
            (LedgerAccount::Payout { tenant: id.tenant_id(), currency: *currency }, *currency, *amount),
        ],
        AccountEvent::Debited { operator, currency, energy, service, fees, .. } => {
            let price = Priced { energy: *energy, service: *service, fees: *fees };
            revenue(id, operator, *currency, price, Money::ZERO)
        }
        AccountEvent::Settled { operator, currency, energy, service, fees, settled, shares, .. } => {
            let price = Priced { energy: *energy, service: *service, fees: *fees };
            let mut legs = revenue(id, operator, *currency, price, settled.overshoot);
            legs.extend(passed_on(operator, *currency, shares));
            legs
        }
        AccountEvent::Opened { .. }
        | AccountEvent::Frozen { .. }
        | AccountEvent::Unfrozen { .. }
        | AccountEvent::Released { .. }
        | AccountEvent::HoldEnded { .. }
        | AccountEvent::Closed { .. }
        | AccountEvent::TransferRefused { .. }
        | AccountEvent::TransferArrived { .. }
        | AccountEvent::Held { .. }
        | AccountEvent::Refused { .. } => vec![],
    };
    legs.into_iter()
        .filter(|(_, _, amount)| *amount != Money::ZERO)
        .map(|(account, currency, amount)| Posting { account, currency, amount })
        .collect()
}

/// `amount` leaves the account and is in flight; negative: it arrives.
fn in_flight(id: &AccountId, currency: Currency, amount: Money) -> Vec<(LedgerAccount, Currency, Money)> {
    vec![
        (LedgerAccount::Driver(id.clone()), currency, amount.negated()),
        (LedgerAccount::InFlight { tenant: id.tenant_id(), currency }, currency, amount),
    ]
}

/// What an operator passes on to the parties of an agreement.
fn passed_on(
    operator: &OperatorId,
    currency: Currency,
    shares: &[PartyShare],
) -> impl Iterator<Item = (LedgerAccount, Currency, Money)> {
    let legs = shares.iter().flat_map(move |share| {
        let from = LedgerAccount::Share { party: operator.clone(), currency };
        let to = LedgerAccount::Share { party: share.party.clone(), currency };
        [(from, currency, share.amount.negated()), (to, currency, share.amount)]
    });
    legs.collect::<Vec<_>>().into_iter()
}

fn revenue(
    id: &AccountId,
    operator: &OperatorId,
    currency: Currency,
    price: Priced,
    overshoot: Money,
) -> Vec<(LedgerAccount, Currency, Money)> {
    let paid = price.total().saturating_sub(overshoot);
    let operator = || operator.clone();
    vec![
        (LedgerAccount::Driver(id.clone()), currency, paid.negated()),
        (LedgerAccount::Overshoot { operator: operator(), currency }, currency, overshoot.negated()),
        (LedgerAccount::EnergyRevenue { operator: operator(), currency }, currency, price.energy),
        (LedgerAccount::ServiceRevenue { operator: operator(), currency }, currency, price.service),
        (LedgerAccount::FeeRevenue { operator: operator(), currency }, currency, price.fees),
    ]
}
