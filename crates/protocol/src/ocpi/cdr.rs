//! The CDR object of OCPI 2.2.1 (`mod_cdrs`), field by field. Unknown fields are read over.

use super::moment::DateTime;
use super::number::Number;
use super::tariff::{Price, Tariff};
use serde::{Deserialize, Serialize};

/// A charge detail record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cdr {
    /// ISO 3166 alpha-2 code of the operator's country.
    pub country_code: String,
    /// The operator.
    pub party_id: String,
    /// Its id at the operator.
    pub id: String,
    /// Start of the session, or of its reservation.
    pub start_date_time: DateTime,
    /// End of the session; charging may have ended before.
    pub end_date_time: DateTime,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Who charged.
    pub cdr_token: CdrToken,
    /// How they were authorised.
    pub auth_method: AuthMethod,
    /// The authorisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_reference: Option<String>,
    /// Where.
    pub cdr_location: CdrLocation,
    /// The meter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meter_id: Option<String>,
    /// ISO 4217 code.
    pub currency: String,
    /// The tariffs that the periods name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tariffs: Option<Vec<Tariff>>,
    /// What happened, in order.
    pub charging_periods: Vec<ChargingPeriod>,
    /// The signed readings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_data: Option<SignedData>,
    /// What it all costs.
    pub total_cost: Price,
    /// What does not depend on time or energy, without the fees of a reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_fixed_cost: Option<Price>,
    /// Energy in kWh.
    pub total_energy: Number,
    /// What the energy costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_energy_cost: Option<Price>,
    /// Hours of the session, charging or not.
    pub total_time: Number,
    /// What the time charging costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_time_cost: Option<Price>,
    /// Hours without charging.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_parking_time: Option<Number>,
    /// What the time without charging costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_parking_cost: Option<Price>,
    /// What the reservation costs, with its fees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_reservation_cost: Option<Price>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// The invoice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoice_reference_id: Option<String>,
    /// It takes another one back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credit: Option<bool>,
    /// Which one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credit_reference_id: Option<String>,
    /// The driver's own home charger was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home_charging_compensation: Option<bool>,
    /// When it was changed last.
    pub last_updated: DateTime,
}

/// The token that was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CdrToken {
    /// ISO 3166 alpha-2 code of the provider's country.
    pub country_code: String,
    /// The provider.
    pub party_id: String,
    /// The token's id.
    pub uid: String,
    /// What it is.
    #[serde(rename = "type")]
    pub token_type: TokenType,
    /// The contract.
    pub contract_id: String,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TokenType {
    /// Made for one session.
    AdHocUser,
    /// An app.
    AppUser,
    /// Anything else.
    Other,
    /// A card.
    Rfid,
}

/// How a session was authorised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AuthMethod {
    /// The provider was asked.
    AuthRequest,
    /// The provider commanded it.
    Command,
    /// From a list.
    Whitelist,
}

/// Where a session took place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CdrLocation {
    /// The location.
    pub id: String,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Street and number.
    pub address: String,
    /// City.
    pub city: String,
    /// Postal code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    /// State or province.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// ISO 3166-1 alpha-3 code.
    pub country: String,
    /// Where on the map.
    pub coordinates: GeoLocation,
    /// The technical id of the EVSE.
    pub evse_uid: String,
    /// The id of the EVSE for people.
    pub evse_id: String,
    /// The connector.
    pub connector_id: String,
    /// Its standard, such as `IEC_62196_T2`.
    pub connector_standard: String,
    /// `SOCKET` or `CABLE`.
    pub connector_format: String,
    /// Such as `DC`.
    pub connector_power_type: String,
    /// IANA time zone. Not a field of 2.2.1's CdrLocation but of its Location; some write it here, and prices by
    /// the local time need it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// Degrees, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeoLocation {
    /// North.
    pub latitude: String,
    /// East.
    pub longitude: String,
}

/// A stretch of a session; it ends where the next begins, the last with the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargingPeriod {
    /// Its start.
    pub start_date_time: DateTime,
    /// What was measured in it.
    pub dimensions: Vec<CdrDimension>,
    /// The tariff that applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tariff_id: Option<String>,
}

/// One measured value of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CdrDimension {
    /// What was measured.
    #[serde(rename = "type")]
    pub dimension: CdrDimensionType,
    /// How much, in the unit of its type.
    pub volume: Number,
}

/// What is measured in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CdrDimensionType {
    /// Average current, A.
    Current,
    /// Energy, kWh; negative when more was fed back.
    Energy,
    /// Energy fed back, kWh.
    EnergyExport,
    /// Energy taken, kWh.
    EnergyImport,
    /// Highest current, A over all phases.
    MaxCurrent,
    /// Lowest current, A over all phases.
    MinCurrent,
    /// Highest power, kW.
    MaxPower,
    /// Lowest power, kW.
    MinPower,
    /// Hours without charging.
    ParkingTime,
    /// Average power, kW.
    Power,
    /// Hours reserved before the session.
    ReservationTime,
    /// State of charge, percent.
    StateOfCharge,
    /// Hours charging.
    Time,
}

/// Signed readings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedData {
    /// How they are encoded.
    pub encoding_method: String,
    /// Version of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding_method_version: Option<i64>,
    /// The key, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// The readings.
    pub signed_values: Vec<SignedValue>,
    /// A page for the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A signed reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedValue {
    /// `Start`, `End` or `Intermediate`.
    pub nature: String,
    /// The reading.
    pub plain_data: String,
    /// The reading with its signature, base64.
    pub signed_data: String,
}
