use super::*;

fn options() -> Options {
    Options::new(vec!["127.0.0.1:1883".into()], "main:gw", "main/gw", "secret-word")
}

#[test]
fn usual_options_are_valid_and_do_not_print_the_password() {
    let options = options();
    assert_eq!(options.check(), Ok(vec![("127.0.0.1".into(), 1883)]));
    let printed = format!("{options:?}");
    assert!(printed.contains("main/gw") && !printed.contains("secret-word"), "{printed}");
}

#[test]
fn addresses_are_host_and_port() {
    assert_eq!(parse_address("[::1]:1883"), Ok(("[::1]".into(), 1883)));
    assert_eq!(parse_address("broker.example:8883"), Ok(("broker.example".into(), 8883)));
    for text in ["", "broker", ":1883", "broker:", "broker:65536", "broker:x"] {
        assert_eq!(parse_address(text), Err(OptionsError::Address { text: text.into() }));
    }
}

#[test]
fn impossible_options_are_refused() {
    let found = Duration::from_secs(4);
    let cases = [
        (Options { brokers: vec![], ..options() }, OptionsError::NoBroker),
        (Options { keep_alive: found, ..options() }, OptionsError::KeepAlive { found }),
        (Options { queue: 0, ..options() }, OptionsError::NoRoom),
        (Options { in_flight: 0, ..options() }, OptionsError::NoRoom),
    ];
    for (options, error) in cases {
        assert_eq!(options.check(), Err(error));
    }
}
