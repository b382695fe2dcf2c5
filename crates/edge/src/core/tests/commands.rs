//! Commands, their deadlines, and sessions that stop by themselves.

use super::*;

/// The first beat of a boot.
fn first_beat(boot: u32) -> u64 {
    (u64::from(boot) << 32) | 1
}

/// A start with a minute from the first beat of the first boot.
fn start(n: u32, allowance: i64) -> DownCommand {
    let action = Action::Start { session: session(), connector: ConnectorNo(1), allowance: WattHours(allowance) };
    let deadline = Deadline { answers_nonce: first_beat(1), boot: 1, within_ms: 60_000 };
    DownCommand { id: format!("main/c1.c{n}").parse().unwrap(), child: 1, action, deadline }
}

#[test]
fn a_command_is_carried_out_once_and_answered_every_time() {
    let mut rig = Rig::live();
    let command = start(1, 500);
    let message = Down::Commands(vec![command.clone()]);
    rig.down(1, &message);
    assert_eq!(rig.effects(), [Effect::Execute(command.clone())]);
    rig.down(1, &message);
    assert_eq!(rig.effects(), [], "it is still being carried out");
    rig.core.on_command_result(at(0), &command.id, CommandEnd::Done);
    rig.core.on_command_result(at(0), &command.id, CommandEnd::Refused("late".to_owned()));
    rig.drain();
    assert_eq!(results(&rig.take(Stream::Events)), [(command.id.clone(), CommandEnd::Done)]);
    rig.down(1, &message);
    assert_eq!(results(&rig.take(Stream::Events)), [(command.id.clone(), CommandEnd::Done)]);
    // Also by the next boot.
    let mut rig = rig.restart(true);
    rig.connect();
    rig.take(Stream::Events);
    rig.down(1, &message);
    assert_eq!(rig.effects().iter().filter(|e| matches!(e, Effect::Execute(_) | Effect::Inquire(_))).count(), 0);
    assert_eq!(results(&rig.take(Stream::Events)), [(command.id, CommandEnd::Done)]);
}

#[test]
fn a_command_without_an_end_is_inquired_after_a_restart() {
    let mut rig = Rig::live();
    rig.down(1, &Down::Commands(vec![start(1, 500)]));
    let core = GatewayCore::new(config(), Box::new(rig.ring.clone()), at(0)).unwrap();
    rig.core = core;
    rig.effects();
    rig.drain();
    assert!(rig.effects().contains(&Effect::Inquire(start(1, 500))));
    rig.connect();
    rig.down(1, &Down::Commands(vec![start(1, 500)]));
    assert!(!rig.effects().iter().any(|e| matches!(e, Effect::Execute(_))));
    rig.core.on_command_result(at(0), &start(1, 0).id, CommandEnd::Refused("interrupted".to_owned()));
    rig.drain();
    assert_eq!(results(&rig.take(Stream::Events)).len(), 1);
}

#[test]
fn late_and_foreign_commands_are_not_carried_out() {
    let mut rig = Rig::live();
    rig.to(1_001);
    let within = |within_ms| Deadline { answers_nonce: first_beat(1), boot: 1, within_ms };
    let late = DownCommand { deadline: within(1_000), ..start(1, 0) };
    let foreign = DownCommand { child: 77, ..start(2, 0) };
    rig.effects();
    rig.down(1, &Down::Commands(vec![late.clone(), foreign]));
    assert_eq!(rig.effects(), []);
    let ends: Vec<_> = results(&rig.take(Stream::Events)).into_iter().map(|(_, end)| end).collect();
    assert_eq!(ends, [CommandEnd::Expired, CommandEnd::Refused("unknown_charger".to_owned())]);
    // The same id with a later deadline is the same command: it has ended.
    rig.down(1, &Down::Commands(vec![DownCommand { deadline: within(60_000), ..late }]));
    assert_eq!(rig.effects(), []);
    assert_eq!(rig.core.stats().commands_executed, 0);
    // The last moment is in time.
    let just = DownCommand { deadline: within(1_001), ..start(3, 0) };
    rig.down(1, &Down::Commands(vec![just.clone()]));
    assert_eq!(rig.effects(), [Effect::Execute(just)]);
}

/// The wall clock of a gateway may be minutes or hours off, and may jump.
#[test]
fn deadlines_do_not_look_at_the_wall_clock() {
    for wrong_by in [90_000, -3_600_000] {
        let mut rig = Rig::live();
        let command = start(1, 500);
        let packet = {
            rig.counter += 1;
            let plain = wire::encode_down(&Down::Commands(vec![command.clone()]));
            rig.keys.seal_down(1, rig.counter, 1, WALL, &plain).unwrap()
        };
        let now = Now::new(59_000, WALL + wrong_by);
        rig.core.on_message(now, "cp/v1/main/0003/g1/down", &packet);
        let mut effects = Vec::new();
        rig.core.drain(now, &mut effects).unwrap();
        assert!(effects.contains(&Effect::Execute(command)), "{wrong_by} ms: {effects:?}");
    }
}

/// It may be from any time: it is neither carried out nor ended, and comes again with a beat that is known.
#[test]
fn a_command_that_answers_no_beat_of_this_boot_waits_for_one_that_does() {
    let rig = Rig::live();
    let mut rig = rig.restart(true);
    rig.connect();
    rig.take(Stream::Events);
    let other = Deadline { answers_nonce: first_beat(2) + 7, boot: 2, within_ms: 60_000 };
    for undated in [start(1, 500), DownCommand { deadline: other, ..start(1, 500) }] {
        rig.down(1, &Down::Commands(vec![undated]));
        assert_eq!(rig.effects(), []);
        assert!(rig.take(Stream::Events).is_empty(), "it has not ended");
    }
    assert_eq!(rig.core.stats().commands_undated, 2);
    let dated = Deadline { answers_nonce: first_beat(2), boot: 2, within_ms: 60_000 };
    let command = DownCommand { deadline: dated, ..start(1, 500) };
    rig.down(1, &Down::Commands(vec![command.clone()]));
    assert_eq!(rig.effects(), [Effect::Execute(command)]);
}

#[test]
fn a_session_stops_at_its_allowance() {
    let mut rig = Rig::live();
    rig.down(1, &Down::Commands(vec![start(1, 500)]));
    let started =
        GatewayEvent::SessionStarted { child: 1, session: session(), register: WattHours(1_000), at: Timestamp(WALL) };
    rig.core.on_event(at(0), started).unwrap();
    rig.drain();
    let told = Effect::SetLimit { child: 1, watts: Watts(0), allowance: Some(WattHours(500)) };
    assert!(rig.effects().contains(&told));
    rig.core.on_sample(at(0), 1, sample(1_499)).unwrap();
    rig.drain();
    assert_eq!(rig.effects(), []);
    rig.core.on_sample(at(0), 1, sample(1_500)).unwrap();
    rig.core.on_sample(at(0), 1, sample(1_510)).unwrap();
    rig.drain();
    let stop = Effect::StopCharging { child: 1, session: session(), reason: StopReason::Funds };
    assert_eq!(rig.effects(), [stop]);
    assert_eq!(rig.core.stats().allowance_stops, 1);
}

#[test]
fn denials_and_notices_reach_the_hardware() {
    let mut rig = Rig::live();
    rig.down(1, &Down::Deny { child: 1, request: 8, code: "insufficient_funds".to_owned() });
    assert_eq!(rig.effects(), [Effect::Denied { child: 1, request: 8, code: "insufficient_funds".to_owned() }]);
}
