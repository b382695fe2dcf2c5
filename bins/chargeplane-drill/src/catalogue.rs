//! The catalogue of a scenario's station: tariff, tree of limits, gateways, chargers, as the operator's YAML.
//!
//! Chargers, cabinets, feeders and transformers are shared out evenly and in order, so that everything is
//! reproducible from the plan alone. Limits are kW in the plan and W in the catalogue.

use crate::scenario::{Level, StationPlan};
use serde_json::{Value, json};

/// The tenant of everything a scenario makes.
pub const TENANT: &str = "main";

/// The station.
pub const STATION: &str = "main/morning-peak";

/// The operator who earns.
pub const OPERATOR: &str = "main/operator";

/// The currency of all accounts.
pub const CURRENCY: &str = "CNY";

const TARIFF: &str = "main/time-of-use";

/// (energy, service fee) a kWh in 1/10,000 CNY: sharp, peak, flat, valley. The spread is small, so that the time
/// of day at which somebody runs a scenario does not decide how long a poor driver's money lasts.
const PRICES: [(i64, i64); 4] = [(11_000, 5_000), (9_800, 4_800), (8_000, 4_500), (6_600, 4_400)];

const PERIODS: [&str; 4] = ["sharp", "peak", "flat", "valley"];

/// Half-hours from midnight: valley at night, peaks in the morning and the evening, sharp within them.
const SLOTS: &str = "333333333333332211001111222222222221100001122233";

/// One node of the tree of limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Name.
    pub id: String,
    /// The node above.
    pub parent: Option<String>,
    /// Limit, W.
    pub limit_w: i64,
}

/// One charger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charger {
    /// Its id.
    pub id: String,
    /// Its gateway's number, from 1.
    pub gateway: u32,
    /// Its number at the gateway.
    pub child: u32,
    /// The cabinet it hangs from.
    pub limit: String,
}

/// A scenario's station, laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The tree; the grid connection first.
    pub limits: Vec<Limit>,
    /// The chargers in order.
    pub chargers: Vec<Charger>,
    /// Number of gateways.
    pub gateways: u32,
    plan_w: PlanWatts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PlanWatts {
    rated: i64,
    min: i64,
    fallback: i64,
}

/// A gateway's id by its number.
pub fn gateway_id(number: u32) -> String {
    format!("{TENANT}/gw-{number:02}")
}

/// Highest and lowest price of a kWh, energy and service fee together.
pub fn price_range() -> (i64, i64) {
    let sums = PRICES.map(|(energy, service)| energy + service);
    (sums.into_iter().max().unwrap_or(0), sums.into_iter().min().unwrap_or(0))
}

/// Index of the group that member `index` of `members` falls into when they are shared out among `groups`.
fn group(index: u32, members: u32, groups: u32) -> u32 {
    u32::try_from(u64::from(index) * u64::from(groups) / u64::from(members.max(1))).unwrap_or(u32::MAX)
}

/// Lays out the station of a plan.
pub fn lay_out(plan: &StationPlan) -> Layout {
    let levels = [("transformer", plan.transformers), ("feeder", plan.feeders), ("cabinet", plan.cabinets)];
    let counts = levels.map(|(_, level)| level.count);
    let cabinet_of = |charger: u32| group(charger, plan.chargers, counts[2]);
    let feeder_of = |charger: u32| group(cabinet_of(charger), counts[2], counts[1]);
    let transformer_of = |charger: u32| group(feeder_of(charger), counts[1], counts[0]);
    let above: [&dyn Fn(u32) -> u32; 3] = [&transformer_of, &feeder_of, &cabinet_of];

    let mut limits = vec![Limit { id: "grid".into(), parent: None, limit_w: watts(plan.grid_kw) }];
    for (depth, (name, level)) in levels.iter().enumerate() {
        for node in 0..level.count {
            let below: Vec<u32> = (0..plan.chargers).filter(|&c| above[depth](c) == node).collect();
            let Some(&first) = below.first() else {
                continue;
            };
            let parent = match depth {
                0 => "grid".to_owned(),
                _ => node_name(levels[depth - 1].0, above[depth - 1](first)),
            };
            let limit_w = node_limit(plan, *level, below.len());
            limits.push(Limit { id: node_name(name, node), parent: Some(parent), limit_w });
        }
    }
    let mut children = vec![0u32; plan.gateways as usize];
    let chargers = (0..plan.chargers).map(|index| {
        let gateway = group(index, plan.chargers, plan.gateways);
        let child = children[gateway as usize];
        children[gateway as usize] += 1;
        Charger {
            id: format!("{TENANT}/c-{:04}", index + 1),
            gateway: gateway + 1,
            child,
            limit: node_name("cabinet", cabinet_of(index)),
        }
    });
    let chargers = chargers.collect();
    let plan_w =
        PlanWatts { rated: watts(plan.charger_kw), min: watts(plan.min_kw), fallback: watts(plan.fallback_kw) };
    Layout { limits, chargers, gateways: plan.gateways, plan_w }
}

fn watts(kw: u32) -> i64 {
    i64::from(kw) * 1000
}

fn node_name(level: &str, index: u32) -> String {
    format!("{level}-{:03}", index + 1)
}

/// A node's part of its level's sum; never too small for one charger or for its chargers' fallbacks.
fn node_limit(plan: &StationPlan, level: Level, below: usize) -> i64 {
    let below = i64::try_from(below).unwrap_or(i64::MAX);
    let part = watts(plan.grid_kw) * i64::from(level.percent_of_grid) / 100 * below / i64::from(plan.chargers);
    let floor = watts(plan.fallback_kw.max(plan.min_kw)) * below;
    (part / 1000 * 1000).max(floor).max(watts(plan.charger_kw))
}

impl Layout {
    /// The catalogue that `chargeplane apply -f` takes.
    pub fn document(&self) -> Value {
        let map = |pairs: Vec<(String, Value)>| Value::Object(pairs.into_iter().collect());
        let price = |(energy, service): (i64, i64)| json!({"energy": decimal(energy), "service": decimal(service)});
        let prices = PERIODS.iter().zip(PRICES).map(|(name, pair)| ((*name).to_owned(), price(pair)));
        let chargers = self.chargers.iter().map(|charger| {
            let value = json!({
                "gateway": gateway_id(charger.gateway),
                "child": charger.child,
                "limit": charger.limit,
                "rated_w": self.plan_w.rated,
                "min_w": self.plan_w.min,
                "fallback_w": self.plan_w.fallback,
            });
            (charger.id.clone(), value)
        });
        let gateways = (1..=self.gateways).map(|number| (gateway_id(number), json!({ "station": STATION })));
        json!({
            "tariffs": { TARIFF: { "currency": CURRENCY, "prices": map(prices.collect()), "slots": SLOTS } },
            "stations": { STATION: {
                "operator": OPERATOR,
                "city": "Chengdu",
                "time_zone": "Asia/Shanghai",
                "tariff": TARIFF,
                "limits": self.limits.iter().map(limit_json).collect::<Vec<Value>>(),
            }},
            "gateways": map(gateways.collect()),
            "chargers": map(chargers.collect()),
        })
    }

    /// The document as YAML.
    ///
    /// # Errors
    /// It cannot be written as YAML, which would be a defect of this program.
    pub fn yaml(&self) -> anyhow::Result<String> {
        Ok(serde_saphyr::to_string(&self.document())?)
    }

    /// The chargers as the fleet's configuration wants them.
    pub fn fleet_chargers(&self) -> Vec<Value> {
        let one = |charger: &Charger| {
            json!({
                "id": charger.id,
                "gateway": gateway_id(charger.gateway),
                "child": charger.child,
                "rated_w": self.plan_w.rated,
                "min_w": self.plan_w.min,
                "fallback_w": self.plan_w.fallback,
                "limit": charger.limit,
            })
        };
        self.chargers.iter().map(one).collect()
    }

    /// The tree as the fleet's configuration wants it.
    pub fn fleet_limits(&self) -> Vec<Value> {
        self.limits.iter().map(limit_json).collect()
    }
}

fn limit_json(limit: &Limit) -> Value {
    let mut node = json!({ "id": limit.id, "limit_w": limit.limit_w });
    if let Some(parent) = &limit.parent {
        node["parent"] = json!(parent);
    }
    node
}

/// An amount in 1/10,000 as the decimal text that the catalogue and the API take.
pub fn decimal(amount: i64) -> String {
    let sign = if amount < 0 { "-" } else { "" };
    format!("{sign}{}.{:04}", amount.unsigned_abs() / 10_000, amount.unsigned_abs() % 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> StationPlan {
        StationPlan {
            chargers: 2000,
            charger_kw: 120,
            min_kw: 12,
            fallback_kw: 12,
            worst_stop_s: 5,
            gateways: 20,
            grid_kw: 60_000,
            transformers: Level { count: 4, percent_of_grid: 115 },
            feeders: Level { count: 20, percent_of_grid: 130 },
            cabinets: Level { count: 100, percent_of_grid: 160 },
        }
    }

    #[test]
    fn every_node_but_the_grid_has_a_parent_and_every_charger_a_cabinet() {
        let layout = lay_out(&plan());
        assert_eq!(layout.limits.len(), 125);
        let known: Vec<&str> = layout.limits.iter().map(|l| l.id.as_str()).collect();
        assert_eq!(layout.limits.iter().filter(|l| l.parent.is_none()).count(), 1);
        assert!(layout.limits.iter().filter_map(|l| l.parent.as_deref()).all(|p| known.contains(&p)));
        assert!(layout.chargers.iter().all(|c| known.contains(&c.limit.as_str())));
        let of_first = layout.chargers.iter().filter(|c| c.gateway == 1).map(|c| c.child);
        assert!(of_first.eq(0..100));
        assert_eq!(layout.limits[1].limit_w, 17_250_000);
    }

    #[test]
    fn a_tiny_station_still_fits_one_charger_at_every_node() {
        let mut tiny = plan();
        (tiny.chargers, tiny.gateways, tiny.grid_kw) = (3, 2, 120);
        (tiny.transformers.count, tiny.feeders.count, tiny.cabinets.count) = (1, 1, 3);
        let layout = lay_out(&tiny);
        assert!(layout.limits.iter().all(|l| l.limit_w >= 120_000));
        assert_eq!(layout.chargers.iter().map(|c| c.child).collect::<Vec<_>>(), [0, 1, 0]);
    }

    #[test]
    fn the_slots_cover_a_day() {
        assert_eq!(SLOTS.len(), 48);
        assert!(SLOTS.bytes().all(|slot| (b'0'..=b'3').contains(&slot)));
        assert_eq!(price_range(), (16_000, 11_000));
    }

    #[test]
    fn the_yaml_reads_back_as_the_document() {
        let layout = lay_out(&plan());
        let back: Value = serde_saphyr::from_str(&layout.yaml().unwrap()).unwrap();
        assert_eq!(back, layout.document());
    }
}
