use super::*;
use proptest::prelude::*;

fn gateway() -> GatewayId {
    "main/g1".parse().unwrap()
}

#[test]
fn topics_are_written_and_read() {
    assert_eq!(up(&gateway(), 0x1f, Stream::Fast), "cp/v1/main/001f/g1/up/fast");
    assert_eq!(down(&gateway(), 0x1f), "cp/v1/main/001f/g1/down");
    assert_eq!(shard_filter(3), "cp/v1/+/0003/+/up/+");
    assert_eq!(client_id(&gateway()), "main:g1");
    assert_eq!(username(&gateway()), "main/g1");
    for stream in Stream::ALL {
        let topic = Topic::Up { gateway: gateway(), shard: 7, stream };
        assert_eq!(parse(&topic.to_string()), Ok(topic));
    }
}

#[test]
fn malformed_topics_have_their_reason() {
    let code = |text: &str| parse(text).unwrap_err().code();
    assert_eq!(code(""), "topic_prefix");
    assert_eq!(code("cp/v1x/main/0001/g/down"), "topic_prefix");
    assert_eq!(code("cp/v1/main/0001/g"), "topic_shape");
    assert_eq!(code("cp/v1/main/0001/g/down/x"), "topic_shape");
    assert_eq!(code("cp/v1/main/0001/g/up"), "topic_shape");
    assert_eq!(code("cp/v1/main/0001/g/up/fast/x"), "topic_shape");
    assert_eq!(code("cp/v1/main/0001/g/up/telemetry"), "topic_stream");
    assert_eq!(code("cp/v1/main/1/g/up/fast"), "topic_shard");
    assert_eq!(code("cp/v1/main/001F/g/up/fast"), "topic_shard");
    assert_eq!(code("cp/v1/main/+001/g/up/fast"), "topic_shard");
    assert_eq!(code("cp/v1/ma in/0001/g/up/fast"), "topic_id");
    assert_eq!(code("cp/v1//0001/g/up/fast"), "topic_id");
    assert_eq!(code(&format!("cp/v1/main/0001/{}/up/fast", "g".repeat(65))), "topic_id");
    assert_eq!(code(&"x".repeat(MAX_TOPIC_LEN + 1)), "topic_length");
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused(text in "\\PC{0,80}") {
        if let Ok(topic) = parse(&text) {
            prop_assert_eq!(topic.to_string(), text);
        }
    }

    #[test]
    fn round_trip(tenant in "[A-Za-z0-9._-]{1,64}", local in "[A-Za-z0-9._-]{1,64}", shard: u16, s in 0u8..5) {
        let gateway = GatewayId::new(&TenantId::new(&tenant).unwrap(), &local).unwrap();
        let topic = Topic::Up { gateway, shard, stream: Stream::from_u8(s).unwrap() };
        prop_assert_eq!(parse(&topic.to_string()), Ok(topic));
    }
}
