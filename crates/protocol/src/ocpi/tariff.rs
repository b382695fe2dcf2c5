//! The Tariff object of OCPI 2.2.1 (`mod_tariffs`), field by field. Unknown fields are read over.

use super::moment::{DateTime, LocalDate, LocalTime};
use super::number::Number;
use serde::{Deserialize, Serialize};

/// An amount before and after tax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Before tax.
    pub excl_vat: Number,
    /// After tax.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incl_vat: Option<Number>,
}

/// A text for people in one language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisplayText {
    /// ISO 639-1 code.
    pub language: String,
    /// The text.
    pub text: String,
}

/// A tariff: elements, each with the conditions under which its prices apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// ISO 3166 alpha-2 code of the operator's country.
    pub country_code: String,
    /// The operator.
    pub party_id: String,
    /// Its id at the operator.
    pub id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// For which sessions it is; for all when left out.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub tariff_type: Option<TariffType>,
    /// Texts for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tariff_alt_text: Option<Vec<DisplayText>>,
    /// A page for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tariff_alt_url: Option<String>,
    /// A session costs at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_price: Option<Price>,
    /// A session costs at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_price: Option<Price>,
    /// The elements, in the order in which they are looked through.
    pub elements: Vec<TariffElement>,
    /// In force from this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_date_time: Option<DateTime>,
    /// In force until before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_date_time: Option<DateTime>,
    /// Where the energy comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_mix: Option<EnergyMix>,
    /// When it was changed last.
    pub last_updated: DateTime,
}

/// For which sessions a tariff is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TariffType {
    /// Paid at the charger.
    AdHocPayment,
    /// The driver asked for cheap charging.
    ProfileCheap,
    /// The driver asked for fast charging.
    ProfileFast,
    /// The driver asked for green energy.
    ProfileGreen,
    /// Everything else.
    Regular,
}

/// Prices that apply under the same conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TariffElement {
    /// One for each priced dimension.
    pub price_components: Vec<PriceComponent>,
    /// When they apply; always when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restrictions: Option<TariffRestrictions>,
}

/// The price of one dimension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceComponent {
    /// What is priced.
    #[serde(rename = "type")]
    pub dimension: TariffDimensionType,
    /// Price a unit before tax: a kWh, an hour, or once.
    pub price: Number,
    /// Tax in percent; none applies when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vat: Option<Number>,
    /// Billed in blocks of so many Wh or seconds.
    pub step_size: u32,
}

/// What a price component prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TariffDimensionType {
    /// A kWh.
    Energy,
    /// Once a session.
    Flat,
    /// An hour connected without charging.
    ParkingTime,
    /// An hour charging, or reserved.
    Time,
}

/// When an element applies: all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TariffRestrictions {
    /// From this time of the local day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<LocalTime>,
    /// Until before this time of the local day; earlier than `start_time`: of the next day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<LocalTime>,
    /// From this local day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_date: Option<LocalDate>,
    /// Until before this local day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_date: Option<LocalDate>,
    /// From this energy of the session on, in kWh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_kwh: Option<Number>,
    /// Until before this energy of the session, in kWh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kwh: Option<Number>,
    /// At this current or more, in A over all phases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_current: Option<Number>,
    /// Below this current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_current: Option<Number>,
    /// At this power or more, in kW.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_power: Option<Number>,
    /// Below this power.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_power: Option<Number>,
    /// From so many seconds of the session on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_duration: Option<u32>,
    /// Until before so many seconds of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<u32>,
    /// On these local days; on all when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day_of_week: Option<Vec<DayOfWeek>>,
    /// The element prices a reservation, not a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<ReservationRestrictionType>,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DayOfWeek {
    /// Monday.
    Monday,
    /// Tuesday.
    Tuesday,
    /// Wednesday.
    Wednesday,
    /// Thursday.
    Thursday,
    /// Friday.
    Friday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}

/// Which reservations an element prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReservationRestrictionType {
    /// A reservation.
    Reservation,
    /// A reservation that no session followed.
    ReservationExpires,
}

/// Where the energy comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyMix {
    /// All of it from renewable sources.
    pub is_green_energy: bool,
    /// The sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_sources: Option<Vec<EnergySource>>,
    /// What it costs the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environ_impact: Option<Vec<EnvironmentalImpact>>,
    /// Who supplies it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supplier_name: Option<String>,
    /// What they call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_product_name: Option<String>,
}

/// A source of energy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergySource {
    /// Which, such as `SOLAR`.
    pub source: String,
    /// Its share in percent.
    pub percentage: Number,
}

/// An effect on the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentalImpact {
    /// Which, such as `CARBON_DIOXIDE`.
    pub category: String,
    /// Grams a kWh.
    pub amount: Number,
}
