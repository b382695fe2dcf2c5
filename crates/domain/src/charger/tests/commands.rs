//! Examples of commands: starts, stops and the others, to their true ends.

use super::*;

#[test]
fn a_start_that_the_hardware_refuses_ends_with_zero_energy() {
    let outcomes = [result(1, hardware_refuses()), result(1, CommandOutcome::Expired), expire(1, true)];
    for outcome in outcomes {
        let mut pile = Pile::new();
        pile.tell(&start(1)).unwrap();
        pile.tell(&authorised(1)).unwrap();
        assert_eq!(pile.kinds(&outcome), ["resolved", "stopped"]);
        let session_now = pile.charger.needs_settlement().unwrap();
        assert_eq!(session_now.metered(), Some(WattHours(0)));
        assert_eq!(session_now.stop_reason, Some(StopReason::NotStarted));
        assert_eq!(code(pile.tell(&started(1, 7))), "unwanted");
        let events = pile.tell(&settled(1, 0)).unwrap();
        let [ChargerEvent::SessionSettled { record, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!((record.energy, record.total, record.meter_start), (WattHours(0), Money(0), record.meter_stop));
        assert_eq!(code(pile.tell(&started(1, 7))), "unwanted");
    }
}

#[test]
fn a_start_of_which_its_gateway_says_nothing_ends_when_the_charger_is_heard_again() {
    let mut pile = Pile::new();
    let late = Timestamp(99 + HEARD_AFTER_MS + 1);
    pile.tell(&start(1)).unwrap();
    pile.tell(&authorised(1)).unwrap();
    assert_eq!(pile.charger.unheard_start(late), None, "not before it is told as unconfirmed");
    pile.tell(&expire(1, false)).unwrap();
    assert_eq!(pile.charger.unheard_start(Timestamp(99 + HEARD_AFTER_MS)), None);
    assert_eq!(pile.charger.unheard_start(late), Some(&command(1)));
    assert_eq!(pile.kinds(&expire(1, true)), ["resolved", "stopped"]);
    assert_eq!(pile.charger.unheard_start(late), None);
    // It did begin: the session is unwanted, and the end that was told becomes true.
    assert_eq!(code(pile.tell(&started(1, 7))), "unwanted");
    assert_eq!(pile.kinds(&result(1, CommandOutcome::Done)), ["resolved"]);
    let mut pile = Pile::charging();
    assert_eq!(pile.charger.unheard_start(late), None);
    pile.tell(&order(Action::Reset, None)).unwrap();
    pile.tell(&expire(2, false)).unwrap();
    assert_eq!(pile.charger.unheard_start(late), None, "only starts hold money");
}

#[test]
fn an_unconfirmed_start_may_still_begin() {
    let mut pile = Pile::new();
    pile.tell(&start(1)).unwrap();
    pile.tell(&authorised(1)).unwrap();
    assert_eq!(pile.kinds(&expire(1, false)), ["resolved"]);
    assert_eq!(pile.kinds(&expire(1, false)), [""; 0]);
    assert_eq!(pile.state(), Some(SessionState::Authorised));
    assert_eq!(pile.charger.unresolved_commands().len(), 1, "sent again until its end is known");
    assert_eq!(pile.kinds(&started(1, 1_000)), ["resolved", "started"]);
    let outcome = pile.charger.commands[&command(1)].outcome.clone();
    assert_eq!(outcome, Some(CommandOutcome::Done));
    assert_eq!(pile.kinds(&expire(1, true)), [""; 0]);
}

#[test]
fn what_is_known_to_have_begun_is_done_whatever_is_said() {
    let mut pile = Pile::charging();
    for late in [result(1, hardware_refuses()), result(1, CommandOutcome::Expired), expire(1, true)] {
        assert_eq!(pile.kinds(&late), [""; 0]);
    }
    assert_eq!(pile.state(), Some(SessionState::Charging));
    assert_eq!(code(pile.tell(&result(1, CommandOutcome::Unconfirmed))), "contradiction");
    assert_eq!(code(pile.tell(&result(2, CommandOutcome::Done))), "unknown_command");
    assert_eq!(code(pile.tell(&expire(0, true))), "unknown_command");
}

#[test]
fn a_stop_is_sent_once() {
    let mut pile = Pile::charging();
    assert_eq!(pile.kinds(&stop(1, Origin::Node)), ["accepted"]);
    assert_eq!(pile.kinds(&stop(1, Origin::Api { key: "k".into() })), [""; 0], "one is under way");
    assert_eq!(pile.kinds(&result(2, hardware_refuses())), ["resolved"]);
    assert_eq!(pile.state(), Some(SessionState::Charging), "a refused stop stops nothing");
    assert_eq!(pile.kinds(&stop(1, Origin::Api { key: "k".into() })), ["accepted"]);
    assert_eq!(pile.charger.key_target("k"), Some(&KeyTarget::Command(command(3))));
    pile.tell(&result(3, CommandOutcome::Done)).unwrap();
    assert_eq!(pile.kinds(&stop(1, Origin::Api { key: "k".into() })), [""; 0], "the key was used");
    pile.tell(&stopped(1, 1_000)).unwrap();
    assert_eq!(pile.kinds(&stop(1, Origin::Node)), [""; 0]);
    assert_eq!(code(pile.tell(&stop(2, Origin::Node))), "unknown_session");
}

#[test]
fn what_nobody_wants_is_stopped() {
    let mut pile = Pile::charging();
    assert_eq!(code(pile.tell(&started(9, 1))), "unwanted");
    let unwanted = Action::Stop { session: session(9), reason: StopReason::Unwanted };
    assert_eq!(pile.kinds(&order(unwanted.clone(), None)), ["accepted"]);
    assert_eq!(pile.kinds(&order(unwanted, None)), [""; 0]);
    assert_eq!(code(pile.tell(&stopped(9, 1))), "unknown_session");
    assert_eq!(pile.state(), Some(SessionState::Charging));
}

#[test]
fn commands_are_bounded_and_stops_have_room_of_their_own() {
    let mut pile = Pile::new();
    let action = Action::Start { session: session(1), connector: ConnectorNo(1), allowance: WattHours(1) };
    assert_eq!(code(pile.tell(&order(action, None))), "invalid_action");
    for _ in 0..MAX_UNRESOLVED {
        assert_eq!(pile.kinds(&order(Action::Reset, None)), ["accepted"]);
    }
    assert_eq!(code(pile.tell(&order(Action::Unlock { connector: ConnectorNo(1) }, None))), "too_many_commands");
    let stop = Action::Stop { session: session(3), reason: StopReason::Unwanted };
    assert_eq!(pile.kinds(&order(stop, None)), ["accepted"]);
    let ids: Vec<_> = pile.charger.unresolved_commands().iter().map(|c| c.id.clone()).collect();
    assert_eq!(ids, (1..=17).map(command).collect::<Vec<_>>(), "in order of acceptance");
    assert_eq!(pile.kinds(&result(1, CommandOutcome::Done)), ["resolved"]);
    assert_eq!(code(pile.tell(&order(Action::Reset, None))), "too_many_commands");
}

#[test]
fn a_keyed_command_is_sent_once() {
    let mut pile = Pile::new();
    assert_eq!(pile.kinds(&order(Action::Reset, Some("k"))), ["accepted"]);
    assert_eq!(pile.kinds(&order(Action::Reset, Some("k"))), [""; 0]);
    let unlock = Action::Unlock { connector: ConnectorNo(1) };
    assert_eq!(code(pile.tell(&order(unlock, Some("k")))), "key_reused");
    assert_eq!(code(pile.tell(&start_key("k"))), "key_reused");
}
