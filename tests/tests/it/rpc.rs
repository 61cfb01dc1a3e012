//! Calls by hand: order of the checks, codes, dialects, isolation.

use callboard_tests::RawPeer;
use serde_json::json;

use crate::house::{address, center};

#[tokio::test]
async fn calls_are_answered_with_the_codes_of_the_contract() {
    let center = center().await;
    let mut v1 = RawPeer::connect(address(&center)).await;
    let rows = [
        (r#"{"method":"add","parameters":{"num1":1,"num2":2},"unknown":[{}]}"#, json!(0), json!("none")),
        (r#"{"parameters":{"num2":2,"num1":1},"method":"a\u0064d"}"#, json!(0), json!("none")),
        (r#"{"method":"async_echo","parameters":[1,null]}"#, json!(0), json!("none")),
        (r#"{"method":"blocking_echo"}"#, json!(0), json!("none")),
        (r#"{"method":"nobody"}"#, json!(5), json!("no")),
        (r#"{"method":"add"}"#, json!(4), json!("no")),
        (r#"{"method":"add","parameters":[1,2]}"#, json!(4), json!("no")),
        (r#"{"method":"add","parameters":{"num1":"1","num2":2}}"#, json!(4), json!("no")),
        (r#"{"method":"add","parameters":{"num1":1.5,"num2":2}}"#, json!(4), json!("no")),
        (r#"{"method":"plain_add","parameters":{"num1":"1","num2":2}}"#, json!(4), json!("no")),
        (r#"{"method":"fail"}"#, json!(64), json!("yes")),
        (r#"{"method":"panic"}"#, json!(8), json!("yes")),
        (r#"{"method":"async_panic"}"#, json!(8), json!("yes")),
    ];
    for (body, code, executed) in rows {
        let answer = v1.ask(0, body).await.json();
        assert_eq!(answer["rcode"], code, "{body}: {answer}");
        if code == 0 {
            assert!(answer.get("error").is_none(), "{answer}");
        } else {
            assert_eq!(answer["result"], json!({}), "{body}: a v1 peer waits for ever without a result");
            assert_eq!(answer["error"]["executed"], executed, "{body}");
            assert!(answer["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
        }
    }
    assert_eq!(center.metrics().panicked, 2);
}

#[tokio::test]
async fn invalid_params_name_the_parameter_and_what_came() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    let answer = peer.ask(0, r#"{"method":"add","parameters":{"num1":"one","num2":2}}"#).await.json();
    let error = &answer["error"];
    assert_eq!(error["data"], json!({"parameter": "num1", "expected": "integer", "got": "string"}));
    let message = error["message"].as_str().unwrap();
    assert!(["num1", "integer", "string"].iter().all(|word| message.contains(word)), "{message}");
}

#[tokio::test]
async fn an_application_error_carries_code_message_and_data() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    let answer = peer.ask(0, r#"{"method":"fail"}"#).await.json();
    let expected = json!({"message": "the lights are out", "executed": "yes", "code": 42, "data": ["stage"]});
    assert_eq!(answer["error"], expected);
}

#[tokio::test]
async fn null_is_an_empty_object_to_v1_and_null_to_a_session() {
    let center = center().await;
    let mut v1 = RawPeer::connect(address(&center)).await;
    let mut session = RawPeer::with_session(address(&center), &[]).await;
    for method in ["nothing", "echo", "async_echo", "blocking_echo"] {
        let call = format!(r#"{{"method":"{method}","parameters":null}}"#);
        assert_eq!(v1.ask(0, &call).await.json()["result"], json!({}), "{method}");
        let answer = session.ask(0, &call).await.json();
        assert!(answer.as_object().unwrap().contains_key("result") && answer["result"].is_null(), "{answer}");
    }
    let answer = session.ask(0, r#"{"method":"nobody"}"#).await.json();
    assert!(answer.get("result").is_none(), "{answer}");
}

#[tokio::test]
async fn ids_are_echoed_byte_for_byte() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    for id in [&b""[..], b"\0", b"\xff\xfe", &[7; 255]] {
        peer.send(0, id, r#"{"method":"echo","parameters":{}}"#).await;
        assert_eq!(peer.receive().await.id, id);
    }
}

#[tokio::test]
async fn a_handler_that_waits_does_not_hold_up_the_frames_behind_it() {
    let center = center().await;
    let mut peer = RawPeer::connect(address(&center)).await;
    peer.send(0, b"never", r#"{"method":"never"}"#).await;
    assert_eq!(peer.ask(0, r#"{"method":"echo"}"#).await.rcode(), 0);
}
