//! Random histories with repetitions, reordering and lies. First safety at every step; then liveness: once
//! everybody behaves, every session ends and every command has its true end.

use super::*;
use proptest::prelude::*;

/// Something said to the machine. Sessions and commands are named relative to the newest, so that most
/// words hit something.
#[derive(Debug, Clone)]
enum Word {
    Start {
        step: u64,
    },
    StartByKey {
        key: u8,
    },
    Authorised {
        back: u64,
    },
    Refused {
        back: u64,
    },
    Started {
        back: u64,
        register: i64,
    },
    Stopped {
        back: u64,
        register: i64,
    },
    Closed {
        back: u64,
        energy: i64,
    },
    Result {
        back: u64,
        outcome: CommandOutcome,
    },
    Expire {
        back: u64,
        heard: bool,
    },
    Stop {
        back: u64,
        key: Option<u8>,
    },
    Reset {
        key: Option<u8>,
    },
    Settled {
        back: u64,
        energy: Option<i64>,
    },
    Fault,
    Flow {
        back: u64,
        flow: Flow,
        at: i64,
    },
    Status {
        available: bool,
    },
    /// What was said this many words ago, once more.
    Again {
        ago: usize,
    },
}

fn words() -> impl Strategy<Value = Vec<Word>> {
    let back = || prop_oneof![8 => Just(0_u64), 1 => Just(1), 1 => 0_u64..12];
    let key = || prop::option::of(0_u8..4);
    let outcome = prop_oneof![
        2 => Just(CommandOutcome::Done),
        1 => Just(hardware_refuses()),
        1 => Just(CommandOutcome::Expired),
        1 => Just(CommandOutcome::Unconfirmed),
    ];
    let word = prop_oneof![
        6 => (0_u64..3).prop_map(|step| Word::Start { step }),
        2 => (0_u8..8).prop_map(|key| Word::StartByKey { key }),
        6 => back().prop_map(|back| Word::Authorised { back }),
        1 => back().prop_map(|back| Word::Refused { back }),
        6 => (back(), 0_i64..5_000).prop_map(|(back, register)| Word::Started { back, register }),
        5 => (back(), 0_i64..9_000).prop_map(|(back, register)| Word::Stopped { back, register }),
        1 => (back(), -9_i64..9_000).prop_map(|(back, energy)| Word::Closed { back, energy }),
        4 => (back(), outcome).prop_map(|(back, outcome)| Word::Result { back, outcome }),
        2 => (back(), any::<bool>()).prop_map(|(back, heard)| Word::Expire { back, heard }),
        2 => (back(), key()).prop_map(|(back, key)| Word::Stop { back, key }),
        1 => key().prop_map(|key| Word::Reset { key }),
        5 => (back(), prop::option::weighted(0.2, 0_i64..3_000))
            .prop_map(|(back, energy)| Word::Settled { back, energy }),
        1 => Just(Word::Fault),
        2 => any::<bool>().prop_map(|available| Word::Status { available }),
        3 => (back(), prop::sample::select(Flow::ALL.to_vec()), 0_i64..900)
            .prop_map(|(back, flow, at)| Word::Flow { back, flow, at }),
        6 => (1_usize..25).prop_map(|ago| Word::Again { ago }),
    ];
    prop::collection::vec(word, 1..120)
}

fn command_of(pile: &Pile, word: &Word, said: &[ChargerCommand]) -> Option<ChargerCommand> {
    let charger = &pile.charger;
    let of_session = |back: &u64| charger.sessions_count.saturating_sub(*back);
    let of_command = |back: &u64| charger.commands_count.saturating_sub(*back);
    let key_name = |key: &Option<u8>| key.map(|key| format!("k{key}"));
    Some(match word {
        Word::Start { step } => start(charger.last_request.unwrap_or(0) + step),
        Word::StartByKey { key } => start_by(Origin::Api { key: format!("k{key}") }),
        Word::Authorised { back } => authorised(of_session(back)),
        Word::Refused { back } => refused(of_session(back)),
        Word::Started { back, register } => started(of_session(back), *register),
        Word::Stopped { back, register } => stopped(of_session(back), *register),
        Word::Closed { back, energy } => closed(of_session(back), *energy, -1),
        Word::Result { back, outcome } => result(of_command(back), outcome.clone()),
        Word::Expire { back, heard } => expire(of_command(back), *heard),
        Word::Stop { back, key } => {
            let origin = key_name(key).map_or(Origin::Node, |key| Origin::Api { key });
            stop(of_session(back), origin)
        }
        Word::Reset { key } => order(Action::Reset, key_name(key).as_deref()),
        Word::Settled { back, energy } => {
            let metered = charger.needs_settlement().and_then(|session| session.metered());
            settled(of_session(back), energy.or(metered.map(|energy| energy.0)).unwrap_or(0))
        }
        Word::Fault => ChargerCommand::GatewayFault { code: "overheated".into(), at: Timestamp(1) },
        Word::Flow { back, flow: to, at } => flow(of_session(back), *to, *at),
        Word::Status { available } => ChargerCommand::GatewayStatus { available: *available, at: Timestamp(1) },
        Word::Again { ago } => said.get(said.len().checked_sub(*ago)?)?.clone(),
    })
}

/// The log of one session or command, judged without looking at the machine.
#[derive(Default)]
struct Judge {
    open: Option<SessionId>,
    sessions: BTreeMap<SessionId, Trail>,
    ends: BTreeMap<CommandId, Vec<CommandOutcome>>,
    starts: BTreeMap<SessionId, CommandId>,
}

#[derive(Default)]
struct Trail {
    account: Option<AccountId>,
    authorised: bool,
    begun: Option<WattHours>,
    ended: Option<WattHours>,
    over: bool,
}

impl Judge {
    fn see(&mut self, event: &ChargerEvent) {
        match event {
            ChargerEvent::SessionRequested { session } => {
                assert_eq!(self.open.replace(session.id.clone()), None, "at most one is current");
                let trail = Trail { account: Some(session.account.clone()), ..Trail::default() };
                assert!(self.sessions.insert(session.id.clone(), trail).is_none(), "ids are new");
            }
            ChargerEvent::SessionAuthorised { session, .. } => {
                let trail = self.current(session);
                assert!(!trail.authorised && trail.ended.is_none());
                trail.authorised = true;
            }
            ChargerEvent::SessionStarted { session, register, .. } => {
                let trail = self.current(session);
                assert!(trail.authorised && trail.begun.is_none() && trail.ended.is_none());
                trail.begun = Some(*register);
            }
            ChargerEvent::SessionStopped { session, register, .. } => {
                let trail = self.current(session);
                assert!(trail.ended.is_none(), "ends once");
                trail.ended = Some(*register);
            }
            ChargerEvent::SessionRefused { session, .. } => {
                let trail = self.current(session);
                assert!(!trail.authorised && trail.begun.is_none());
                trail.over = true;
                self.open = None;
            }
            ChargerEvent::SessionSettled { session, record } => {
                let trail = self.current(session);
                let ended = trail.ended.unwrap();
                let energy = trail.begun.map_or(0, |begun| ended.0 - begun.0);
                assert_eq!(record.energy.0, energy, "SESS-1");
                assert_eq!(record.meter_stop.0 - record.meter_start.0, energy, "SESS-1");
                assert_eq!(record.billed_wh.0 + record.overshoot_wh.0, energy, "SESS-1");
                assert_eq!(Some(&record.account), trail.account.as_ref());
                assert!(!trail.over);
                trail.over = true;
                self.open = None;
            }
            ChargerEvent::CommandAccepted { command } => {
                assert!(self.ends.insert(command.id.clone(), vec![]).is_none(), "ids are new");
                if let Action::Start { session, .. } = &command.action {
                    let first = self.starts.insert(session.clone(), command.id.clone());
                    assert!(first.is_none(), "a session is started by one command");
                }
            }
            ChargerEvent::CommandResolved { command, outcome, .. } => {
                let ends = self.ends.get_mut(command).expect("only what was accepted ends");
                let last = ends.last();
                assert!(!matches!(last, Some(CommandOutcome::Done | CommandOutcome::Refused { .. })));
                assert_ne!(last, Some(outcome));
                ends.push(outcome.clone());
            }
            ChargerEvent::StatusChanged { .. } => {}
            ChargerEvent::FlowChanged { session, .. } => {
                let trail = self.current(session);
                assert!(trail.begun.is_some() && trail.ended.is_none(), "time passes while it charges");
            }
        }
    }

    fn current(&mut self, session: &SessionId) -> &mut Trail {
        assert_eq!(self.open.as_ref(), Some(session), "only the current session changes");
        self.sessions.get_mut(session).unwrap()
    }

    /// CMD-1 at the end: a begun session's start command is done; one that is done or refused stays so.
    fn check_ends(&self) {
        for (session, trail) in &self.sessions {
            if trail.begun.is_some() {
                let ends = &self.ends[&self.starts[session]];
                assert_eq!(ends.last(), Some(&CommandOutcome::Done), "a reported end is true");
            }
        }
    }
}

/// Says everything, twice, and judges every event.
fn play(words: &[Word]) -> (Pile, Judge) {
    let mut pile = Pile::new();
    let mut judge = Judge::default();
    let mut said: Vec<ChargerCommand> = vec![];
    for word in words {
        let Some(command) = command_of(&pile, word, &said) else {
            continue;
        };
        let before = pile.charger.clone();
        let answer = pile.tell(&command);
        for event in answer.iter().flatten() {
            judge.see(event);
        }
        if answer.is_err() {
            assert_eq!(pile.charger, before, "a refusal changes nothing");
        }
        // At once again: nothing new, unless it is a command without a key, which is a new one.
        if !matches!(&command, ChargerCommand::RequestCommand { key: None, .. }) {
            let again = pile.charger.decide(&pile.id, &command);
            assert!(again.as_ref().map_or(true, Vec::is_empty), "{command:?} gave {again:?}");
        }
        said.push(command);
    }
    judge.check_ends();
    (pile, judge)
}

proptest! {
    #[test]
    fn one_effect_a_command_and_one_session_at_a_time(words in words()) {
        let (pile, _) = play(&words);
        let charger = &pile.charger;
        prop_assert!(charger.recent.len() <= SESSIONS_REMEMBERED);
        prop_assert!(charger.keys.len() <= MAX_KEYS);
        prop_assert!(charger.ended.len() <= COMMANDS_REMEMBERED);
        prop_assert_eq!(charger.commands.len(), charger.ended.len() + charger.unresolved_commands().len());
        prop_assert!(charger.unresolved_commands().len() <= MAX_UNRESOLVED_STOPS + 1);
    }

    /// Replaying the log gives the live state, through either stored form of events and state.
    #[test]
    fn replay_equals_live(words in words()) {
        let (pile, _) = play(&words);
        let (mut from_json, mut from_packed) = (Charger::default(), Charger::default());
        for event in &pile.log {
            let json = serde_json::to_string(event).unwrap();
            from_json.apply(&serde_json::from_str(&json).unwrap()).unwrap();
            let packed = rmp_serde::to_vec(event).unwrap();
            from_packed.apply(&rmp_serde::from_slice(&packed).unwrap()).unwrap();
        }
        prop_assert_eq!(&from_json, &pile.charger);
        prop_assert_eq!(&from_packed, &pile.charger);
        let json = serde_json::to_string(&pile.charger).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Charger>(&json).unwrap(), &pile.charger);
        let packed = rmp_serde::to_vec_named(&pile.charger).unwrap();
        prop_assert_eq!(&rmp_serde::from_slice::<Charger>(&packed).unwrap(), &pile.charger);
    }

    /// From any state, what the four questions ask for brings every session to its end.
    #[test]
    fn everything_ends_once_everybody_behaves(words in words()) {
        let (mut pile, mut judge) = play(&words);
        let mut rounds = 0;
        loop {
            let charger = &pile.charger;
            let next = if let Some(session) = charger.needs_authorisation() {
                refused_or_authorised(session)
            } else if let Some(session) = charger.needs_settlement() {
                settled(number(&session.id), session.metered().unwrap().0)
            } else if let Some(session) = charger.charging() {
                stopped(number(&session.id), session.meter_start.unwrap().0 + 5)
            } else if let Some(command) = charger.unresolved_commands().first() {
                ChargerCommand::ExpireCommand { command: command.id.clone(), at: Timestamp(1), heard: true }
            } else if let Some(session) = charger.open_session() {
                // Its start is done: the gateway's report of the start is on its way.
                started(number(&session.id), 40)
            } else {
                break;
            };
            let events = pile.tell(&next).unwrap();
            prop_assert!(!events.is_empty(), "{next:?} leads nowhere");
            events.iter().for_each(|event| judge.see(event));
            rounds += 1;
            prop_assert!(rounds < 200);
        }
        prop_assert_eq!(pile.charger.open_session(), None);
        prop_assert!(judge.sessions.values().all(|trail| trail.over));
        judge.check_ends();
    }
}

fn number(session: &SessionId) -> u64 {
    session.as_str().rsplit_once('.').unwrap().1.parse().unwrap()
}

fn refused_or_authorised(session: &ChargingSession) -> ChargerCommand {
    match number(&session.id) % 2 {
        0 => refused(number(&session.id)),
        _ => authorised(number(&session.id)),
    }
}
