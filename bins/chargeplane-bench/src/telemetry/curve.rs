//! What chargers measure: charging curves with noise on them, the same ones for the load and for the audit.

use chargeplane_domain::sample::Sample;
use chargeplane_domain::units::{Timestamp, WattHours, Watts};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::sync::OnceLock;

/// Milliseconds from one reading to the next.
pub const STEP_MS: i64 = 100;

/// Gaussian numbers that noise is drawn from.
const NORMALS: usize = 1 << 16;

/// Standard deviations of what a meter adds.
#[derive(Debug, Clone, Copy)]
pub struct Noise {
    pub voltage_dv: f32,
    pub current_da: f32,
    pub power_w: f32,
    pub temperature_dc: f32,
    pub time_ms: f32,
}

/// A good meter.
pub const TYPICAL: Noise = Noise { voltage_dv: 2.0, current_da: 2.0, power_w: 20.0, temperature_dc: 0.3, time_ms: 2.0 };

/// A bad one behind a busy network.
pub const HARD: Noise =
    Noise { voltage_dv: 10.0, current_da: 10.0, power_w: 150.0, temperature_dc: 1.0, time_ms: 15.0 };

fn normals() -> &'static [f32] {
    static TABLE: OnceLock<Vec<f32>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        (0..NORMALS).map(|_| StandardNormal.sample(&mut random)).collect()
    })
}

/// One charger's readings, from its first on: constant current up to 80 % of charge, constant voltage behind.
pub struct Curve {
    random: u64,
    noise: Noise,
    at_ms: i64,
    /// Charge of the battery in joules, and what it holds.
    charge_j: f64,
    holds_j: f64,
    /// Current of the first phase.
    current_da: f32,
    energy_j: f64,
    temperature_dc: f32,
}

impl Curve {
    /// The curve of this charger; its first reading is of `start_ms`.
    pub fn new(charger: usize, noise: Noise, start_ms: i64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(charger as u64);
        let holds_j = random.random_range(40.0..100.0) * 3.6e6;
        Self {
            random: random.random::<u64>() | 1,
            noise,
            at_ms: start_ms,
            charge_j: holds_j * random.random_range(0.1..0.9),
            holds_j,
            current_da: random.random_range(1_000.0..2_500.0),
            energy_j: random.random_range(1e9..1e13),
            temperature_dc: random.random_range(180.0..300.0),
        }
    }

    fn normal(&mut self) -> f32 {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        normals()[(self.random >> 40) as usize % NORMALS]
    }

    /// The next reading.
    pub fn next(&mut self) -> Sample {
        let soc = (self.charge_j / self.holds_j).min(1.0) as f32;
        let current = if soc < 0.8 { self.current_da } else { self.current_da * ((1.0 - soc) * 5.0).max(0.02) };
        let voltage = 3_500.0 + 1_000.0 * soc.min(0.8) + 0.05 * current;
        let power = voltage * current / 100.0;
        self.temperature_dc += (450.0 - self.temperature_dc) * 2e-5 * current / 2_500.0;
        let joules = f64::from(power) * STEP_MS as f64 / 1_000.0;
        self.energy_j += joules;
        self.charge_j = (self.charge_j + joules).min(self.holds_j);
        let noise = self.noise;
        let at_ms = self.at_ms + (noise.time_ms * self.normal()).round() as i64;
        self.at_ms += STEP_MS;
        Sample {
            at: Timestamp(at_ms),
            voltage_dv: (voltage + noise.voltage_dv * self.normal()).round() as i32,
            current_da: (current + noise.current_da * self.normal()).round() as i32,
            temperature_dc: (self.temperature_dc + noise.temperature_dc * self.normal()).round() as i32,
            soc_permille: (soc * 1_000.0) as i32,
            power: Watts((power + noise.power_w * self.normal()).round() as i64),
            register: WattHours((self.energy_j / 3_600.0) as i64),
        }
    }
}
