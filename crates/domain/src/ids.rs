//! Identities. Every id carries its tenant, because a tenant cannot be added later.
//!
//! The text form is `tenant/local`; a bare `local` means the default tenant `main`. Both parts are
//! 1 to 64 characters of `[A-Za-z0-9._-]`, so ids are safe in topics, paths, SQL keys and file names. Only the account
//! that is an operator's [`Till`] has an `@` in its local part, where no id that anybody chose has one.

use crate::text;
use crate::units::Currency;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The tenant that an id without a tenant belongs to.
pub const DEFAULT_TENANT: &str = "main";

/// Longest tenant or local part, in bytes.
pub const MAX_PART_LEN: usize = 64;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A part is empty or longer than [`MAX_PART_LEN`].
    #[error("id {text:?}: each part must have 1 to {MAX_PART_LEN} characters")]
    Length { text: String },
    /// A character outside `[A-Za-z0-9._-]`.
    #[error("id {text:?}: character {found:?} is not allowed; use letters, digits, '.', '_' and '-'")]
    Character { text: String, found: char },
    /// More than one `/`.
    #[error("id {text:?}: expected 'local' or 'tenant/local'")]
    Shape { text: String },
    /// An `@` in the id of an account, and not a till.
    #[error("id {text:?}: an operator's till is OPERATOR@CURRENCY-SHARD, such as main/op1@CNY-001f")]
    Till { text: String },
}

fn check_part(whole: &str, part: &str) -> Result<(), IdError> {
    if part.is_empty() || part.len() > MAX_PART_LEN {
        return Err(IdError::Length { text: shorten(whole) });
    }
    match part.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        Some(found) => Err(IdError::Character { text: shorten(whole), found }),
        None => Ok(()),
    }
}

/// Foreign text is quoted in errors only up to a bound.
fn shorten(text: &str) -> String {
    text.chars().take(MAX_PART_LEN * 2 + 1).collect()
}

/// A tenant: the outermost part of every id, topic, key and token.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Checks and wraps a tenant name.
    pub fn new(name: &str) -> Result<Self, IdError> {
        check_part(name, name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    fn default() -> Self {
        Self(DEFAULT_TENANT.into())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TenantId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.0.to_string()
    }
}

/// The local part of an account: as of any id, or a till's.
fn check_account(whole: &str, local: &str) -> Result<(), IdError> {
    let Some((operator, rest)) = local.split_once('@') else { return check_part(whole, local) };
    check_part(whole, operator)?;
    read_till(rest).map(drop).ok_or_else(|| IdError::Till { text: shorten(whole) })
}

/// Currency and shard of a till, from what is behind the `@`. One text for each.
fn read_till(text: &str) -> Option<(Currency, u16)> {
    let (currency, shard) = text.split_once('-')?;
    let hex = shard.len() == 4 && shard.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    Some((Currency::new(currency).ok()?, u16::from_str_radix(shard, 16).ok().filter(|_| hex)?))
}

macro_rules! tenant_ids {
    ($($(#[$doc:meta])* $name:ident: $check:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Builds the id from its tenant and its local part.
            pub fn new(tenant: &TenantId, local: &str) -> Result<Self, IdError> {
                $check(local, local)?;
                Ok(Self(format!("{}/{local}", tenant.as_str()).into()))
            }

            /// The tenant's name.
            pub fn tenant(&self) -> &str {
                self.0.split_once('/').map_or(DEFAULT_TENANT, |(tenant, _)| tenant)
            }

            /// The tenant as an id.
            pub fn tenant_id(&self) -> TenantId {
                TenantId(self.tenant().into())
            }

            /// The part after the tenant.
            pub fn local(&self) -> &str {
                self.0.split_once('/').map_or(&*self.0, |(_, local)| local)
            }

            /// The text form `tenant/local`.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut parts = text.split('/');
                match (parts.next(), parts.next(), parts.next()) {
                    (Some(local), None, _) => Self::new(&TenantId::default(), local),
                    (Some(tenant), Some(local), None) => {
                        check_part(text, tenant)?;
                        $check(text, local)?;
                        Ok(Self(text.into()))
                    }
                    _ => Err(IdError::Shape { text: shorten(text) }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text::deserialize(deserializer)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.to_string()
            }
        }
    )*};
}

tenant_ids! {
    /// A charging station: one grid connection and everything behind it.
    StationId: check_part;
    /// A charger (one pile; its connectors are numbered from 1).
    ChargerId: check_part;
    /// An account that pays for charging.
    AccountId: check_account;
    /// An edge gateway, which speaks for the chargers of one station.
    GatewayId: check_part;
    /// A charging session. Local form: `{charger}.{n}`, n counting the charger's sessions from 1.
    SessionId: check_part;
    /// A command to a charger. Local form: `{charger}.c{n}`, n counting the charger's commands from 1.
    CommandId: check_part;
    /// A tariff.
    TariffId: check_part;
    /// The operator who earns the revenue of a station.
    OperatorId: check_part;
}

/// What an account is that belongs to an operator and to one shard: the revenue which he earned in that shard's books
/// is collected there, before it is paid out. Text of its id: `main/op1@CNY-001f`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Till {
    /// Whose.
    pub operator: OperatorId,
    /// Of which currency.
    pub currency: Currency,
    /// In which shard of the account family.
    pub shard: u16,
}

impl Till {
    /// The account that it is.
    pub fn account(&self) -> AccountId {
        AccountId(format!("{}@{}-{:04x}", self.operator, self.currency, self.shard).into())
    }
}

impl AccountId {
    /// True when it is an operator's till.
    pub fn is_till(&self) -> bool {
        self.0.contains('@')
    }

    /// The till that it is; none for the account of a driver or a fleet.
    pub fn till(&self) -> Option<Till> {
        let (operator, rest) = self.0.split_once('@')?;
        let (currency, shard) = read_till(rest)?;
        Some(Till { operator: OperatorId(operator.into()), currency, shard })
    }
}

/// Connector number within a charger, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectorNo(pub u8);

/// A node of the cluster, as it appears in ownership records. Not tenant-scoped: nodes serve all tenants.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Arc<str>);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
