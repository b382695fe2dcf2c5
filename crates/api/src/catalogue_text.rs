//! The catalogue as people write it: YAML or JSON with named periods and decimal prices.
//!
//! Reading is strict: unknown fields, duplicate keys and wrong types are refused with line and column.
//! Everything that needs more than one field is checked by `domain::catalogue_check`.

use chargeplane_domain::catalogue::{Catalogue, Charger, Gateway, Station};
use chargeplane_domain::ids::{ChargerId, GatewayId, StationId, TariffId};
use chargeplane_domain::tariff::book::TariffBook;
use chargeplane_domain::tariff::fees::Fees;
use chargeplane_domain::tariff::{Price, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::ToSchema;

/// Largest document that is read, 16 MiB: 60,000 chargers and more.
pub const MAX_CATALOGUE_BYTES: usize = 16 * 1024 * 1024;

/// Most YAML nodes of a document; what 16 MiB can hold in earnest.
const MAX_NODES: usize = 4_000_000;

/// Why a text is not a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct CatalogueTextError {
    /// Line, from 1; 0 when it is not known.
    pub line: u64,
    /// Column, from 1; 0 when it is not known.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

/// The catalogue document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CatalogueDocument {
    /// Tariffs by id.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, TariffDocument>)]
    pub tariffs: BTreeMap<TariffId, TariffDocument>,
    /// Which tariff goes before a station's own.
    #[serde(default, skip_serializing_if = "TariffBook::is_default")]
    #[schema(value_type = TariffBookSchema)]
    pub tariff_book: TariffBook,
    /// Stations by id.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, StationSchema>)]
    pub stations: BTreeMap<StationId, Station>,
    /// Gateways by id.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, GatewaySchema>)]
    pub gateways: BTreeMap<GatewayId, Gateway>,
    /// Chargers by id.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, ChargerSchema>)]
    pub chargers: BTreeMap<ChargerId, Charger>,
}

/// A tariff: four periods over 48 half hours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TariffDocument {
    /// ISO 4217 code.
    #[schema(value_type = String)]
    pub currency: Currency,
    /// Prices per kWh.
    pub prices: PricesDocument,
    /// 48 digits, a half hour each from 00:00 in the station's zone: 0 sharp, 1 peak, 2 flat, 3 valley.
    #[schema(value_type = String)]
    pub slots: Slots,
    /// What is paid beside energy and service; nothing when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fees: Option<FeesDocument>,
}

/// What a session costs beside its energy; what is left out is zero, or no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeesDocument {
    /// Once a session in which energy flowed: a decimal with up to four decimals, like all amounts here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub flat: Option<Amount>,
    /// A minute of charging. Time in which the charger is paused is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub per_minute: Option<Amount>,
    /// A minute in which the car is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub idle_per_minute: Option<Amount>,
    /// Seconds of a session's idle time that are free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_grace_s: Option<i64>,
    /// Least that a session costs in which energy flowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub min: Option<Amount>,
    /// Most that a session costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub max: Option<Amount>,
}

impl FeesDocument {
    /// The document of a tariff's fees; none when there are none.
    pub fn of(fees: &Fees) -> Option<Self> {
        let some = |amount: Money| (!amount.is_zero()).then_some(Amount(amount));
        let document = Self {
            flat: some(fees.flat),
            per_minute: some(fees.per_minute),
            idle_per_minute: some(fees.idle_per_minute),
            idle_grace_s: Some(fees.idle_grace_s).filter(|grace| *grace != 0),
            min: some(fees.min),
            max: fees.max.map(Amount),
        };
        (!fees.is_none()).then_some(document)
    }
}

impl From<FeesDocument> for Fees {
    fn from(document: FeesDocument) -> Self {
        let amount = |amount: Option<Amount>| amount.map_or(Money::ZERO, |amount| amount.0);
        Self {
            flat: amount(document.flat),
            per_minute: amount(document.per_minute),
            idle_per_minute: amount(document.idle_per_minute),
            idle_grace_s: document.idle_grace_s.unwrap_or(0),
            min: amount(document.min),
            max: document.max.map(|max| max.0),
        }
    }
}

/// Prices of the four periods.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PricesDocument {
    /// Period 0.
    pub sharp: PriceDocument,
    /// Period 1.
    pub peak: PriceDocument,
    /// Period 2.
    pub flat: PriceDocument,
    /// Period 3.
    pub valley: PriceDocument,
}

/// Price per kWh.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceDocument {
    /// For the energy: a decimal with up to four decimals.
    #[schema(value_type = String)]
    pub energy: Amount,
    /// For the service.
    #[schema(value_type = String)]
    pub service: Amount,
}

/// An amount, written `1.20` or `"1.20"`: always whole currency units, never their ten-thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount(pub Money);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AmountVisitor;

        impl de::Visitor<'_> for AmountVisitor {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount such as 1.20")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                text.parse().map(Amount).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, whole: i64) -> Result<Amount, E> {
                self.visit_str(&whole.to_string())
            }

            fn visit_u64<E: de::Error>(self, whole: u64) -> Result<Amount, E> {
                self.visit_str(&whole.to_string())
            }

            // The shortest text that reads back as the same number is what was written, for anything with
            // up to four decimals; more decimals than four are refused by the parser of amounts.
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Amount, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(AmountVisitor)
    }
}

/// Which tariff goes before a station's own, by groups and validity.
#[derive(ToSchema)]
#[schema(as = TariffBookDocument)]
#[expect(dead_code, reason = "describes domain::tariff::book::TariffBook; a test compares the fields")]
pub(crate) struct TariffBookSchema {
    /// Stations by group.
    station_groups: Option<BTreeMap<String, Vec<String>>>,
    /// Accounts by group.
    customer_groups: Option<BTreeMap<String, Vec<String>>>,
    /// The rules: the first that fits is taken.
    rules: Option<Vec<TariffRuleSchema>>,
}

/// A tariff and when it goes before the station's own; what is left out does not matter.
#[derive(ToSchema)]
#[schema(as = TariffRuleDocument)]
#[expect(dead_code, reason = "describes domain::tariff::book::TariffRule; a test compares the fields")]
pub(crate) struct TariffRuleSchema {
    /// The tariff.
    tariff: String,
    /// Only at stations of this group.
    station_group: Option<String>,
    /// Only for accounts of this group.
    customer_group: Option<String>,
    /// From this moment of the station's wall clock, such as `2026-01-01T00:00`.
    valid_from: Option<String>,
    /// Until before this moment.
    valid_until: Option<String>,
}

/// A station.
#[derive(ToSchema)]
#[schema(as = StationDocument)]
#[expect(dead_code, reason = "describes domain::catalogue::Station; a test compares the fields")]
pub(crate) struct StationSchema {
    /// Who earns the revenue.
    operator: String,
    /// The city, for reports.
    city: Option<String>,
    /// IANA time zone.
    time_zone: String,
    /// The tariff in force, unless a rule of the tariff book goes before it.
    tariff: String,
    /// How the revenue is shared by agreement; everything is the operator's when left out.
    split: Option<SplitSchema>,
    /// The tree of limits: exactly one node has no parent.
    limits: Vec<LimitSchema>,
    /// What is done with its power beyond the tree.
    power: Option<PowerSchema>,
}

/// What a station does with its power beyond its tree of limits.
#[derive(ToSchema)]
#[schema(as = PowerDocument)]
#[expect(dead_code, reason = "describes domain::catalogue::PowerSettings; a test compares the fields")]
pub(crate) struct PowerSchema {
    /// `fair` (the default), `proportional` or `strict`.
    policy: Option<String>,
    /// Lower limits by time of day, in the station's zone.
    schedule: Option<Vec<ScheduledLimitSchema>>,
}

/// A lower limit every day between two times of the station's wall clock.
#[derive(ToSchema)]
#[schema(as = ScheduledLimitDocument)]
#[expect(dead_code, reason = "describes domain::catalogue::ScheduledLimit; a test compares the fields")]
pub(crate) struct ScheduledLimitSchema {
    /// The node.
    node: String,
    /// From this time of day on, `17:00`.
    from: String,
    /// Until before this time of day; at or before `from`: of the next day.
    until: String,
    /// Most power through the node, in W.
    limit_w: i64,
}

/// An agreement about a station's revenue.
#[derive(ToSchema)]
#[schema(as = SplitDocument)]
#[expect(dead_code, reason = "describes domain::split::Split; a test compares the fields")]
pub(crate) struct SplitSchema {
    /// Basis points by party, 10,000 in all.
    shares: std::collections::BTreeMap<String, u32>,
    /// The party that gets what rounding leaves.
    remainder: String,
}

/// A node of the tree of limits.
#[derive(ToSchema)]
#[schema(as = LimitDocument)]
#[expect(dead_code, reason = "describes domain::catalogue::LimitNode; a test compares the fields")]
pub(crate) struct LimitSchema {
    /// Its name in the station.
    id: String,
    /// The node above; none for the grid connection.
    parent: Option<String>,
    /// Most power through this node, in W.
    limit_w: i64,
    /// Load here that is not controlled, in W.
    base_w: Option<i64>,
}

/// A gateway.
#[derive(ToSchema)]
#[schema(as = GatewayDocument)]
#[expect(dead_code, reason = "describes domain::catalogue::Gateway; a test compares the fields")]
pub(crate) struct GatewaySchema {
    /// The station whose chargers it speaks for.
    station: String,
}

/// A charger.
#[derive(ToSchema)]
#[schema(as = ChargerDocument)]
#[expect(dead_code, reason = "describes domain::catalogue::Charger; a test compares the fields")]
pub(crate) struct ChargerSchema {
    /// The gateway that speaks for it.
    gateway: String,
    /// Its number at that gateway, from 0.
    child: u16,
    /// The node of the station's tree it hangs from.
    limit: String,
    /// Most power, in W.
    rated_w: i64,
    /// Least power, in W.
    min_w: i64,
    /// Grants are multiples of this, in W; 100 when left out.
    step_w: Option<i64>,
    /// What it may draw when cut off: 0 or at least `min_w`.
    fallback_w: i64,
    /// Share weight; 100 when left out.
    weight: Option<u32>,
    /// Connectors; 1 when left out.
    connectors: Option<u8>,
}

impl From<CatalogueDocument> for Catalogue {
    fn from(document: CatalogueDocument) -> Self {
        let price = |p: PriceDocument| Price { energy: p.energy.0, service: p.service.0 };
        let tariff = |t: TariffDocument| Tariff {
            currency: t.currency,
            prices: [price(t.prices.sharp), price(t.prices.peak), price(t.prices.flat), price(t.prices.valley)],
            slots: t.slots,
            fees: t.fees.map_or(Fees::NONE, Fees::from),
        };
        Self {
            tariffs: document.tariffs.into_iter().map(|(id, t)| (id, tariff(t))).collect(),
            tariff_book: document.tariff_book,
            stations: document.stations,
            gateways: document.gateways,
            chargers: document.chargers,
        }
    }
}

impl From<&Catalogue> for CatalogueDocument {
    fn from(catalogue: &Catalogue) -> Self {
        let price = |p: &Price| PriceDocument { energy: Amount(p.energy), service: Amount(p.service) };
        let tariff = |t: &Tariff| {
            let [sharp, peak, flat, valley] = &t.prices;
            TariffDocument {
                currency: t.currency,
                prices: PricesDocument {
                    sharp: price(sharp),
                    peak: price(peak),
                    flat: price(flat),
                    valley: price(valley),
                },
                slots: t.slots,
                fees: FeesDocument::of(&t.fees),
            }
        };
        Self {
            tariffs: catalogue.tariffs.iter().map(|(id, t)| (id.clone(), tariff(t))).collect(),
            tariff_book: catalogue.tariff_book.clone(),
            stations: catalogue.stations.clone(),
            gateways: catalogue.gateways.clone(),
            chargers: catalogue.chargers.clone(),
        }
    }
}

/// Reads a catalogue from YAML.
///
/// # Errors
///
/// Line, column and what is wrong there.
pub fn from_yaml(text: &str) -> Result<Catalogue, CatalogueTextError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 3 * MAX_NODES,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    let document: CatalogueDocument = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        CatalogueTextError { line, column, message: shortened(&error.without_snippet().to_string()) }
    })?;
    Ok(document.into())
}

/// Reads a catalogue from JSON.
///
/// # Errors
///
/// Line, column and what is wrong there.
pub fn from_json(bytes: &[u8]) -> Result<Catalogue, CatalogueTextError> {
    let document: CatalogueDocument = serde_json::from_slice(bytes).map_err(|error| CatalogueTextError {
        line: error.line() as u64,
        column: error.column() as u64,
        message: shortened(&error.to_string()),
    })?;
    Ok(document.into())
}

/// Writes a catalogue as YAML that reads back as the same catalogue.
///
/// # Errors
///
/// What the serializer says; a catalogue that was validated has nothing it could refuse.
pub fn to_yaml(catalogue: &Catalogue) -> Result<String, String> {
    serde_saphyr::to_string(&CatalogueDocument::from(catalogue)).map_err(|e| e.to_string())
}

fn shortened(message: &str) -> String {
    message.chars().take(400).collect()
}

#[cfg(test)]
mod tests;
