//! A car's battery: what it accepts, and what happens to it while it charges.
//!
//! Energy is integer, in [`TICK_PER_WH`]-ths of a Wh (one is 1 W for one step), so what is metered is exactly what
//! was drawn. The rest (temperature, voltage) is for show and is floating point. Losses are ignored.

use crate::schedule::CarSpec;

/// Length of a step of the simulation, ms.
pub const STEP_MS: u64 = 100;
/// Steps of 1 W in one Wh.
pub const TICK_PER_WH: i64 = 36_000;
/// A charger raises its power by at most this much a step: 40 kW/s.
pub const RAMP_W_PER_STEP: i64 = 4_000;

/// State of charge from which the car accepts less and less, 1/1000.
const TAPER_FROM: i64 = 680;
/// What it still accepts when full, in 1/1000 of its best.
const TAPER_LEFT: i64 = 150;
/// Temperature from which the car protects its battery, degrees Celsius.
const WARM_C: f32 = 46.0;
/// Outside temperature, degrees Celsius.
const AMBIENT_C: f32 = 18.0;
/// Warming a step at [`WARMING_W`], and the share of the surplus that is lost a step: 26 degrees above the outside
/// at that power in the end, half of it after a quarter of a minute.
const WARMING_C: f32 = 0.13;
const WARMING_W: f32 = 120_000.0;
const COOLING: f32 = 0.005;

/// A car that is plugged in.
#[derive(Debug, Clone, PartialEq)]
pub struct Car {
    capacity: i64,
    stored: i64,
    target: i64,
    max_w: i64,
    temperature_c: f32,
}

impl Car {
    /// The car as it comes.
    pub fn new(spec: &CarSpec) -> Self {
        let capacity = spec.capacity_wh.max(1) * TICK_PER_WH;
        let stored = spec.stored_wh.clamp(0, spec.capacity_wh) * TICK_PER_WH;
        Self {
            capacity,
            stored,
            target: (stored + spec.need_wh * TICK_PER_WH).min(capacity),
            max_w: spec.max_w,
            temperature_c: AMBIENT_C + 4.0,
        }
    }

    /// State of charge, 1/1000.
    pub fn soc_permille(&self) -> i64 {
        self.stored * 1_000 / self.capacity
    }

    /// Battery temperature, 0.1 degree Celsius.
    pub fn temperature_dc(&self) -> i32 {
        (self.temperature_c * 10.0) as i32
    }

    /// Voltage of the pack, 0.1 V.
    pub fn voltage_dv(&self) -> i32 {
        (3_450 + self.soc_permille() * 6 / 10) as i32
    }

    /// True when the driver has what he wanted.
    pub fn is_satisfied(&self) -> bool {
        self.stored >= self.target
    }

    /// What the car would take now, W: its best, tapering with the state of charge and with heat.
    pub fn accept_w(&self) -> i64 {
        if self.is_satisfied() {
            return 0;
        }
        let soc = self.soc_permille();
        let share = if soc <= TAPER_FROM {
            1_000
        } else {
            1_000 - (1_000 - TAPER_LEFT) * (soc - TAPER_FROM) / (1_000 - TAPER_FROM)
        };
        let heat = ((self.temperature_c - WARM_C) * 50.0).clamp(0.0, 700.0) as i64;
        self.max_w * share / 1_000 * (1_000 - heat) / 1_000
    }

    /// Takes `power_w` for one step.
    pub fn charge(&mut self, power_w: i64) {
        self.stored = (self.stored + power_w).min(self.capacity);
        self.temperature_c += WARMING_C * power_w as f32 / WARMING_W - COOLING * (self.temperature_c - AMBIENT_C);
    }
}

/// What a charger draws in the next step: never more than its limit, at once less, only gradually more. Below its
/// least power it cannot charge.
pub fn next_power(now_w: i64, limit_w: i64, min_w: i64, accept_w: i64) -> i64 {
    if limit_w < min_w {
        return 0;
    }
    limit_w.min(accept_w).min(now_w.saturating_add(RAMP_W_PER_STEP)).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> CarSpec {
        CarSpec { capacity_wh: 1_000, stored_wh: 200, need_wh: 650, max_w: 120_000 }
    }

    #[test]
    fn a_car_takes_exactly_what_its_driver_wants_and_tapers() {
        let mut car = Car::new(&spec());
        let (mut drawn, mut power, mut last) = (0, 0, i64::MAX);
        let mut steps = 0;
        while !car.is_satisfied() {
            power = next_power(power, 120_000, 12_000, car.accept_w());
            car.charge(power);
            drawn += power;
            steps += 1;
            if car.soc_permille() > TAPER_FROM {
                assert!(car.accept_w() <= last, "accepts less and less above the knee");
                last = car.accept_w();
            }
            assert!(steps < 1_000);
        }
        let overshoot = drawn - 650 * TICK_PER_WH;
        assert!((0..120_000).contains(&overshoot), "{overshoot}");
        assert!(last < 70_000, "{last}");
        // 650 Wh at 120 kW would be 19.5 s; ramp and taper cost a few more.
        assert!((200..280).contains(&steps), "{steps}");
        assert!((300..470).contains(&car.temperature_dc()), "{}", car.temperature_dc());
    }

    #[test]
    fn power_falls_at_once_and_rises_slowly() {
        assert_eq!(next_power(100_000, 30_000, 12_000, 120_000), 30_000);
        assert_eq!(next_power(30_000, 100_000, 12_000, 120_000), 34_000);
        assert_eq!(next_power(30_000, 11_999, 12_000, 120_000), 0);
        assert_eq!(next_power(30_000, 120_000, 12_000, 9_000), 9_000);
        assert_eq!(next_power(0, i64::MAX, 0, 2_000), 2_000);
    }
}
