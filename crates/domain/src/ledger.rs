//! Double entry inside a shard: ledger accounts, postings and the books they fold into.
//!
//! Keeps MONEY-1: an entry is taken only when its postings sum to zero in every currency, so the sum over
//! all balances of a shard is zero after every entry. All counter-accounts (revenue, top-up source,
//! overshoot) are sub-accounts of the same shard; an operator's balance is their fold over shards.
//!
//! Sign: a driver's positive balance is money he has; revenue grows positive; the top-up source, where the
//! money came from, and the overshoot account, which pays what no driver paid, grow negative.
//!
//! ```
//! use chargeplane_domain::ledger::{Books, LedgerAccount, Posting};
//! use chargeplane_domain::units::{Currency, Money};
//!
//! let cny = Currency::new("CNY").unwrap();
//! let post = |account: &str, amount| Posting {
//!     account: account.parse().unwrap(),
//!     currency: cny,
//!     amount: Money(amount),
//! };
//! let mut books = Books::default();
//! books.apply(&[post("driver:main/a1", 100), post("top-up:main:CNY", -100)]).unwrap();
//! assert!(books.apply(&[post("driver:main/a1", -30)]).is_err()); // half an entry: refused, nothing changed
//! assert_eq!(books.sum(cny), Money(0));
//! assert_eq!(books.balance(&"driver:main/a1".parse::<LedgerAccount>().unwrap()), Money(100));
//! ```
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use crate::ids::{AccountId, IdError, OperatorId, TenantId};
use crate::units::{Currency, CurrencyError, Money};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// An account of the books. Text form: `driver:main/a1`, `energy:main/op1:CNY`, `service:main/op1:CNY`,
/// `fees:main/op1:CNY`, `top-up:main:CNY`, `overshoot:main/op1:CNY`, `rounding:main:CNY`,
/// `adjustment:main:CNY`, `in-flight:main:CNY`, `share:main/owner1:CNY`, `collected:main/op1:CNY`,
/// `payout:main:CNY`; stored as text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LedgerAccount {
    /// Money of a driver or a fleet.
    Driver(AccountId),
    /// An operator's revenue from energy.
    EnergyRevenue { operator: OperatorId, currency: Currency },
    /// An operator's revenue from service.
    ServiceRevenue { operator: OperatorId, currency: Currency },
    /// An operator's revenue from what is neither energy nor service: flat fees, minutes, least prices.
    FeeRevenue { operator: OperatorId, currency: Currency },
    /// Where top-ups come from: minus the money that was paid in.
    TopUpSource { tenant: TenantId, currency: Currency },
    /// Metered but not paid by a driver: minus what the operator bears.
    Overshoot { operator: OperatorId, currency: Currency },
    /// What operators corrected by their word: minus what they gave.
    Adjustment { tenant: TenantId, currency: Currency },
    /// A party's shares of revenue by agreement; of the operator who passes them on, minus those.
    Share { party: OperatorId, currency: Currency },
    /// On its way to accounts: what left this shard's, minus what arrived at them. Over all shards it is what has
    /// left and not arrived.
    InFlight { tenant: TenantId, currency: Currency },
    /// Rounding differences of splits between partners.
    Rounding { tenant: TenantId, currency: Currency },
    /// What an operator's tills took out of his revenue: minus that.
    Collected { operator: OperatorId, currency: Currency },
    /// What was paid out to banks: plus that.
    Payout { tenant: TenantId, currency: Currency },
}

/// Why a text is not a ledger account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerAccountError {
    /// Another kind or number of parts.
    #[error("ledger account {0:?}: expected driver:ID or KIND:OWNER:CURRENCY, such as energy:main/op1:CNY")]
    Shape(String),
    /// The owner is not an id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The last part is not a currency.
    #[error(transparent)]
    Currency(#[from] CurrencyError),
}

/// One leg of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posting {
    /// Whose balance changes.
    pub account: LedgerAccount,
    /// In which currency.
    pub currency: Currency,
    /// By how much; positive is more for the account's owner.
    pub amount: Money,
}

/// Why an entry is refused. The books are unchanged then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The postings of a currency do not sum to zero.
    #[error("the postings in {currency} sum to {off} units of 1/10,000, not to zero")]
    Unbalanced { currency: Currency, off: i128 },
    /// A posting is in another currency than its account.
    #[error("account {account} does not hold {currency}")]
    Currency { account: LedgerAccount, currency: Currency },
    /// A balance would not fit.
    #[error("the balance of {account} would not fit in 64 bits")]
    Overflow { account: LedgerAccount },
}

impl LedgerError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unbalanced { .. } => "unbalanced",
            Self::Currency { .. } => "currency_mismatch",
            Self::Overflow { .. } => "balance_overflow",
        }
    }
}

/// Balances of a shard, or of several folded together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Currency and balance of every account that was ever posted to.
    pub balances: BTreeMap<LedgerAccount, (Currency, Money)>,
}

/// Several entries on the same books, each whole or not at all, written when all are taken: a batch of debits of
/// one account changes a handful of balances a hundred times, and looks each up in the books once.
#[derive(Debug)]
pub struct Entries<'a> {
    books: &'a mut Books,
    changed: Vec<Balance>,
}

/// What one entry leaves in its accounts.
#[derive(Debug)]
#[must_use]
pub struct Entry(Vec<Balance>);

type Balance = (LedgerAccount, Currency, Money);

impl Entries<'_> {
    /// What an entry would change, or why it is refused: for who must do something else first and may yet fail.
    pub fn prepare(&self, postings: Vec<Posting>) -> Result<Entry, LedgerError> {
        check_balanced(&postings)?;
        let mut after = Vec::with_capacity(postings.len());
        for posting in postings {
            let balance = self.after(&after, posting)?;
            set(&mut after, balance);
        }
        Ok(Entry(after))
    }

    /// The balance of a posting's account after it, behind what `earlier` postings of the entry left.
    fn after(&self, earlier: &[Balance], posting: Posting) -> Result<Balance, LedgerError> {
        let Posting { account, currency, amount } = posting;
        let known = earlier.iter().chain(&self.changed).find(|(of, ..)| *of == account);
        let known = known.map(|(_, held, balance)| (*held, *balance));
        let known = known.or_else(|| self.books.balances.get(&account).copied());
        let (held, balance) = known.unwrap_or((currency, Money::ZERO));
        if held != currency || account.currency().is_some_and(|own| own != currency) {
            return Err(LedgerError::Currency { account, currency });
        }
        match balance.checked_add(amount) {
            Some(balance) => Ok((account, held, balance)),
            None => Err(LedgerError::Overflow { account }),
        }
    }

    /// Takes what was prepared on these very entries, as they still are.
    pub fn take(&mut self, entry: Entry) {
        entry.0.into_iter().for_each(|balance| set(&mut self.changed, balance));
    }

    /// Writes what was taken to the books.
    pub fn commit(self) {
        for (account, currency, balance) in self.changed {
            self.books.balances.insert(account, (currency, balance));
        }
    }
}

fn set(balances: &mut Vec<Balance>, balance: Balance) {
    match balances.iter_mut().find(|(account, ..)| *account == balance.0) {
        Some(present) => *present = balance,
        None => balances.push(balance),
    }
}

impl Books {
    /// Version of the stored form.
    pub const VERSION: u16 = 1;

    /// Begins to take several entries.
    pub fn entries(&mut self) -> Entries<'_> {
        Entries { books: self, changed: Vec::new() }
    }

    /// Takes one entry, whole or not at all.
    pub fn apply(&mut self, postings: &[Posting]) -> Result<(), LedgerError> {
        let mut entries = self.entries();
        let entry = entries.prepare(postings.to_vec())?;
        entries.take(entry);
        entries.commit();
        Ok(())
    }

    /// Adds the balances of other books, such as another shard's.
    pub fn absorb(&mut self, other: &Self) -> Result<(), LedgerError> {
        let mut entries = self.entries();
        for (account, (currency, amount)) in &other.balances {
            let posting = Posting { account: account.clone(), currency: *currency, amount: *amount };
            let after = entries.after(&[], posting)?;
            entries.changed.push(after);
        }
        entries.commit();
        Ok(())
    }

    /// The balance of an account; zero when it was never posted to.
    pub fn balance(&self, account: &LedgerAccount) -> Money {
        self.balances.get(account).map_or(Money::ZERO, |(_, balance)| *balance)
    }

    /// What an operator has earned here in a currency and not collected: his revenue and shares, less what he passed
    /// on, bore and collected.
    pub fn earned(&self, operator: &OperatorId, currency: Currency) -> Money {
        // The accounts of drivers, which may be a hundred thousand, come before all others.
        let counter = self.balances.iter().rev().take_while(|(of, _)| !matches!(of, LedgerAccount::Driver(_)));
        let own = counter.filter(|(of, (held, _))| *held == currency && of.operator() == Some(operator));
        own.fold(Money::ZERO, |sum, (_, (_, balance))| sum.saturating_add(*balance))
    }

    /// Sum over all accounts of a currency, held at the type's bounds: zero, or MONEY-1 is violated.
    pub fn sum(&self, currency: Currency) -> Money {
        let sum = self.exact_sums().get(&currency).copied().unwrap_or(0);
        Money(i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX }))
    }

    /// The currencies whose sum is not zero, with the sum. Empty, or MONEY-1 is violated.
    pub fn imbalance(&self) -> BTreeMap<Currency, Money> {
        let sums = self.exact_sums();
        sums.iter().filter(|(_, sum)| **sum != 0).map(|(currency, _)| (*currency, self.sum(*currency))).collect()
    }

    fn exact_sums(&self) -> BTreeMap<Currency, i128> {
        let mut sums = BTreeMap::new();
        for (currency, balance) in self.balances.values() {
            let sum: &mut i128 = sums.entry(*currency).or_default();
            *sum = sum.saturating_add(i128::from(balance.0));
        }
        sums
    }
}

/// An entry has a handful of postings, so each currency is summed where it is met.
fn check_balanced(postings: &[Posting]) -> Result<(), LedgerError> {
    for Posting { currency, .. } in postings {
        let legs = postings.iter().filter(|posting| posting.currency == *currency);
        let off = legs.fold(0i128, |sum, posting| sum.saturating_add(i128::from(posting.amount.0)));
        if off != 0 {
            return Err(LedgerError::Unbalanced { currency: *currency, off });
        }
    }
    Ok(())
}

impl LedgerAccount {
    /// The operator whose account it is, if it is one's.
    pub fn operator(&self) -> Option<&OperatorId> {
        match self {
            Self::EnergyRevenue { operator, .. }
            | Self::ServiceRevenue { operator, .. }
            | Self::FeeRevenue { operator, .. }
            | Self::Overshoot { operator, .. }
            | Self::Collected { operator, .. } => Some(operator),
            Self::Share { party, .. } => Some(party),
            Self::Driver(_)
            | Self::TopUpSource { .. }
            | Self::Adjustment { .. }
            | Self::InFlight { .. }
            | Self::Payout { .. }
            | Self::Rounding { .. } => None,
        }
    }

    /// The currency in the account's name; a driver's account gets its currency with its first posting.
    pub fn currency(&self) -> Option<Currency> {
        match self {
            Self::Driver(_) => None,
            Self::EnergyRevenue { currency, .. }
            | Self::ServiceRevenue { currency, .. }
            | Self::FeeRevenue { currency, .. }
            | Self::TopUpSource { currency, .. }
            | Self::Overshoot { currency, .. }
            | Self::Adjustment { currency, .. }
            | Self::InFlight { currency, .. }
            | Self::Share { currency, .. }
            | Self::Collected { currency, .. }
            | Self::Payout { currency, .. }
            | Self::Rounding { currency, .. } => Some(*currency),
        }
    }
}

impl fmt::Display for LedgerAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driver(account) => write!(f, "driver:{account}"),
            Self::EnergyRevenue { operator, currency } => write!(f, "energy:{operator}:{currency}"),
            Self::ServiceRevenue { operator, currency } => {
                write!(f, "service:{operator}:{currency}")
            }
            Self::FeeRevenue { operator, currency } => write!(f, "fees:{operator}:{currency}"),
            Self::TopUpSource { tenant, currency } => write!(f, "top-up:{tenant}:{currency}"),
            Self::Overshoot { operator, currency } => write!(f, "overshoot:{operator}:{currency}"),
            Self::Adjustment { tenant, currency } => write!(f, "adjustment:{tenant}:{currency}"),
            Self::InFlight { tenant, currency } => write!(f, "in-flight:{tenant}:{currency}"),
            Self::Share { party, currency } => write!(f, "share:{party}:{currency}"),
            Self::Rounding { tenant, currency } => write!(f, "rounding:{tenant}:{currency}"),
            Self::Collected { operator, currency } => write!(f, "collected:{operator}:{currency}"),
            Self::Payout { tenant, currency } => write!(f, "payout:{tenant}:{currency}"),
        }
    }
}

impl FromStr for LedgerAccount {
    type Err = LedgerAccountError;

    fn from_str(text: &str) -> Result<Self, LedgerAccountError> {
        let shape = || LedgerAccountError::Shape(text.chars().take(160).collect());
        let (kind, rest) = text.split_once(':').ok_or_else(shape)?;
        if kind == "driver" {
            return Ok(Self::Driver(rest.parse()?));
        }
        let (owner, code) = rest.split_once(':').ok_or_else(shape)?;
        let currency = Currency::new(code)?;
        match kind {
            "energy" => Ok(Self::EnergyRevenue { operator: owner.parse()?, currency }),
            "service" => Ok(Self::ServiceRevenue { operator: owner.parse()?, currency }),
            "fees" => Ok(Self::FeeRevenue { operator: owner.parse()?, currency }),
            "overshoot" => Ok(Self::Overshoot { operator: owner.parse()?, currency }),
            "top-up" => Ok(Self::TopUpSource { tenant: TenantId::new(owner)?, currency }),
            "adjustment" => Ok(Self::Adjustment { tenant: TenantId::new(owner)?, currency }),
            "share" => Ok(Self::Share { party: owner.parse()?, currency }),
            "in-flight" => Ok(Self::InFlight { tenant: TenantId::new(owner)?, currency }),
            "collected" => Ok(Self::Collected { operator: owner.parse()?, currency }),
            "payout" => Ok(Self::Payout { tenant: TenantId::new(owner)?, currency }),
            "rounding" => Ok(Self::Rounding { tenant: TenantId::new(owner)?, currency }),
            _ => Err(shape()),
        }
    }
}

impl TryFrom<String> for LedgerAccount {
    type Error = LedgerAccountError;
    fn try_from(text: String) -> Result<Self, LedgerAccountError> {
        text.parse()
    }
}

impl From<LedgerAccount> for String {
    fn from(account: LedgerAccount) -> Self {
        account.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;
