//! OCPI 2.2.1: tariffs and charge detail records as partners exchange them, and what a record costs.
//!
//! [`Tariff`] and [`Cdr`] are the objects of the specification, field by field, with numbers kept as they
//! are written ([`Number`]). [`price()`] applies one to the other by the rules of `mod_tariffs` and `mod_cdrs`,
//! in exact fractions that are rounded once. `docs/reference/tariff-price.md` says how each rule is read where the
//! specification leaves room.

pub mod cdr;
mod exact;
pub mod moment;
pub mod number;
pub mod price;
pub mod read;
pub mod tariff;

pub use cdr::Cdr;
pub use number::Number;
pub use price::{PricedCdr, price, price_documents};
pub use read::{Document, DocumentError, read};
pub use tariff::Tariff;
