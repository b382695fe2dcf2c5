//! A day without a node, on virtual time and real files: what the ring keeps of it, and that the rest is declared.

use super::*;
use crate::ring::{FileRing, FileRingConfig};
use std::path::Path;

const HOUR_MS: u64 = 3_600_000;

/// How much of it: a part of the chargers and of the samples on every day, all of it where there is time.
struct Size {
    chargers: u16,
    samples_per_s: u64,
    capacity: u64,
}

fn size() -> Size {
    if std::env::var_os("CHARGEPLANE_LONG").is_some() {
        Size { chargers: 100, samples_per_s: 10, capacity: 256 << 20 }
    } else {
        Size { chargers: 4, samples_per_s: 1, capacity: 1_500_000 }
    }
}

fn day_config(size: &Size) -> GatewayConfig {
    let child = ChildConfig { fallback: Watts(5_000), rated: Watts(120_000) };
    let children = (0..size.chargers).map(|number| (number, child)).collect();
    let mut config = GatewayConfig::new(gateway(), 3, key(), children);
    config.telemetry_capacity = size.capacity;
    // Full batches, as a gateway with a hundred chargers has them.
    config.policy.max_age_ms = 60_000;
    config
}

fn core(size: &Size, dir: &Path, now: u64) -> GatewayCore {
    // As the operating system has it: what is measured here is what is kept, and no disk.
    let config =
        FileRingConfig { sync_telemetry: false, segment_bytes: size.capacity / 64, ..FileRingConfig::new(dir) };
    GatewayCore::new(day_config(size), Box::new(FileRing::open(config).unwrap()), at(now)).unwrap()
}

/// A curve with noise, stamped with its moment.
fn reading(child: u16, at: u64) -> Sample {
    let noise = (at / 100).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(child)) >> 40;
    let noise = i32::try_from(noise % 40).unwrap();
    Sample {
        at: Timestamp(WALL + at as i64),
        voltage_dv: 4_000 + noise / 4,
        current_da: 1_500 - noise,
        temperature_dc: 250 + noise / 10,
        soc_permille: (at / 60_000 % 1_000) as i32,
        power: Watts(60_000 - i64::from(noise) * 20),
        register: WattHours((at / 60) as i64),
    }
}

fn disk(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap());
    files.filter(|file| file.path().extension().is_some_and(|e| e == "seg")).map(|f| f.metadata().unwrap().len()).sum()
}

/// What a node hears of it: numbers with their moments, numbers declared, by charger.
#[derive(Default)]
struct Heard {
    stored: BTreeMap<u16, BTreeMap<u64, i64>>,
    gaps: BTreeMap<u16, Vec<(u64, u64, GapReason)>>,
    /// Bytes and samples of batches in which nothing is but what thinning kept, and its gaps.
    thinned: (u64, u64),
}

/// Connects, and acknowledges everything that comes until nothing is left.
fn replay(core: &mut GatewayCore, mut now: u64) -> Heard {
    let keys = Keyring::new(&gateway(), &key());
    let mut heard = Heard::default();
    let mut counter = 0;
    core.on_connected(at(now));
    for _ in 0..1_000_000 {
        let mut effects = Vec::new();
        core.drain(at(now), &mut effects).unwrap();
        let mut acks: BTreeMap<(Stream, u32), u64> = BTreeMap::new();
        for effect in effects {
            let Effect::Publish { payload, ticket: Some(ticket), .. } = effect else { continue };
            let (stream, opened) = keys.open_up(&payload).unwrap();
            let UpBatch::Samples { runs, gaps } = wire::decode_up(stream, &opened.plain).unwrap() else { continue };
            let keep = core.config().thinning.keep_one_in;
            let numbers = || runs.iter().flat_map(|run| (run.first_number..).take(run.samples.len()));
            if numbers().all(|number| number.is_multiple_of(keep)) {
                heard.thinned.0 += payload.len() as u64;
                heard.thinned.1 += numbers().count() as u64;
            }
            for run in runs {
                let of_child = heard.stored.entry(run.child).or_default();
                for (number, sample) in (run.first_number..).zip(run.samples) {
                    of_child.insert(number, sample.at.0 - WALL);
                }
            }
            for (child, gap) in gaps {
                heard.gaps.entry(child).or_default().push((gap.first, gap.last, gap.reason));
            }
            let upto = acks.entry((ticket.stream, ticket.boot)).or_default();
            *upto = ticket.seq.max(*upto);
        }
        if acks.is_empty() && core.stats().held_batches() == 0 {
            return heard;
        }
        for ((stream, boot), upto_seq) in acks {
            counter += 1;
            let boot = BootId::new(1, boot);
            let ack = Down::Ack(Ack { stream, boot, epoch: 1, upto_seq, refused: vec![], credit: 1_000 });
            let packet = keys.seal_down(1, counter, 1, WALL, &wire::encode_down(&ack)).unwrap();
            core.on_message(at(now), "cp/v1/main/0003/g1/down", &packet);
        }
        now += 100;
    }
    panic!("the ring never emptied: {:?}", core.stats());
}

#[test]
fn a_day_without_a_node_passes_through_the_ring() {
    let size = size();
    let dir = tempfile::tempdir().unwrap();
    let mut core = core(&size, dir.path(), 0);
    let (whole, thinned) = core.config().hours_held(u64::from(size.chargers) * size.samples_per_s);
    assert!(whole < 20.0 && thinned > 24.0, "the size holds {whole} h whole and {thinned} h thinned: nothing to test");
    let step = 1_000 / size.samples_per_s;
    let mut created = 0;
    let (mut now, mut effects) = (0, Vec::new());
    while now < 24 * HOUR_MS {
        now += step;
        for child in 0..size.chargers {
            core.on_sample(at(now), child, reading(child, now)).unwrap();
            created += 1;
        }
        core.drain(at(now), &mut effects).unwrap();
        effects.clear();
        if now == 12 * HOUR_MS {
            // The process ends without a word, and finds everything again.
            let before = core.telemetry_bytes();
            drop(core);
            core = self::core(&size, dir.path(), now);
            let after = core.telemetry_bytes();
            // What was thinned comes back where its segment is still needed for another batch.
            assert!(after >= before && after < before + size.capacity / 8, "{before} bytes were held, then {after}");
        }
        if now % HOUR_MS == 0 {
            assert!(core.telemetry_bytes() <= size.capacity);
            // Segments are removed as wholes.
            let (disk, most) = (disk(dir.path()), size.capacity + size.capacity / 4);
            assert!(disk <= most, "{disk} bytes on disk after {} h, at most {most}", now / HOUR_MS);
        }
    }
    let stats = core.stats().clone();
    assert!(!stats.gap_samples.contains_key("dropped"), "{:?}", stats.gap_samples);

    core.flush(at(now)).unwrap();
    let heard = replay(&mut core, now);
    let mut kept = 0;
    for child in 0..size.chargers {
        let stored = &heard.stored[&child];
        let gaps = &heard.gaps[&child];
        // Every number is one or the other: together they are whole.
        let mut spans: Vec<(u64, u64)> = gaps.iter().map(|(first, last, _)| (*first, *last)).collect();
        spans.extend(stored.keys().map(|number| (*number, *number)));
        spans.sort_unstable();
        let reached = spans.iter().fold(0, |next, (first, last)| {
            assert!(*first <= next, "charger {child}: {next} to {} are unexplained", first - 1);
            next.max(last + 1)
        });
        assert!(reached >= 24 * 3_600 * size.samples_per_s, "charger {child}: only up to {reached}");
        let skipped = |gap: &&(u64, u64, GapReason)| gap.2 == GapReason::Dropped;
        let skipped: u64 = gaps.iter().filter(skipped).map(|(first, last, _)| last - first + 1).sum();
        assert!(skipped <= NUMBER_SLACK, "only what the restart left out was dropped: {skipped}");
        // The last hour is as it was made, and of every earlier hour there is a part.
        let in_hour = |hour: u64| {
            let within = (hour * HOUR_MS) as i64..((hour + 1) * HOUR_MS) as i64;
            stored.values().filter(|at| within.contains(at)).count() as u64
        };
        assert!(in_hour(23) >= 3_600 * size.samples_per_s - 1);
        for hour in 0..23 {
            assert!(in_hour(hour) >= 3_600 * size.samples_per_s / 31, "hour {hour}: {}", in_hour(hour));
        }
        kept += stored.len() as u64;
    }
    assert!(kept < created, "nothing was thinned");
    println!("{created} samples of a day, {kept} kept, {} thinned", stats.gap_samples["thinned"]);
}

/// The constants behind the hours that a gateway prints.
#[test]
fn a_sample_takes_about_what_the_estimate_says() {
    let size = Size { chargers: 20, samples_per_s: 10, capacity: 64 << 20 };
    let fill = |config: GatewayConfig, seconds: u64| {
        let mut core = GatewayCore::new(config, Box::new(MemoryRing::new()), at(0)).unwrap();
        let mut effects = Vec::new();
        for step in 1..=seconds * 10 {
            for child in 0..size.chargers {
                core.on_sample(at(step * 100), child, reading(child, step * 100)).unwrap();
            }
            core.drain(at(step * 100), &mut effects).unwrap();
            effects.clear();
        }
        core.flush(at(seconds * 1_000)).unwrap();
        core
    };
    let whole = fill(day_config(&size), 100);
    let whole = whole.telemetry_bytes() as f64 / whole.stats().stream(Stream::Replay).held_items as f64;
    assert!((0.7..1.2).contains(&(whole / crate::config::SAMPLE_BYTES)), "{whole} bytes a sample");
    // What is older than a moment is thinned at once, but for the last batches.
    let mut config = day_config(&size);
    config.telemetry_capacity = 4 << 20;
    config.thinning = crate::Thinning { from_percent: 1, after_ms: 0, keep_one_in: 30 };
    let (bytes, samples) = replay(&mut fill(config, 300), 300_000).thinned;
    let thinned = bytes as f64 / samples as f64;
    assert!(
        samples > 1_000 && (0.7..1.2).contains(&(thinned / crate::config::THINNED_BYTES)),
        "{thinned} bytes a kept one"
    );
    println!("{whole:.1} bytes a sample, {thinned:.1} a sample that thinning kept");
}
