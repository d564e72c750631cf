//! Handshakes against scripted servers.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::error::Kind;

/// A backend message.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn authentication(code: i32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes()[..], rest].concat())
}

/// AuthenticationOk, a parameter, a notice, the key and ReadyForQuery.
fn welcome() -> Vec<u8> {
    [
        authentication(0, b""),
        message(b'S', b"server_version\x0015\0"),
        message(b'N', b"SNOTICE\0MHello\0\0"),
        message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]),
        message(b'Z', b"I"),
    ]
    .concat()
}

fn login(password: Option<&SecretString>, channel_binding: ChannelBinding) -> Login<'_> {
    let parameters = &[("user", "me"), ("replication", "database")];
    Login { parameters, user: "me", password, channel_binding, binding: None }
}

/// Logs in to a server that, after the startup message, plays `(says, expects)` in turn.
async fn play(
    password: Option<&str>,
    channel_binding: ChannelBinding,
    script: Vec<(Vec<u8>, Option<Vec<u8>>)>,
) -> Result<BackendKey> {
    let (client, mut server) = duplex(64 << 10);
    let serve = tokio::spawn(async move {
        let startup = read_frame(&mut server, false).await;
        assert_eq!(&startup[..4], &[0, 3, 0, 0]);
        assert!(startup.windows(20).any(|window| window == b"replication\0database"));
        for (says, expects) in script {
            server.write_all(&says).await.unwrap();
            if let Some(expects) = expects {
                assert_eq!(read_frame(&mut server, true).await, expects);
            }
        }
    });
    let password = password.map(SecretString::from);
    let mut messages = Messages::new(client);
    let result = log_in(&mut messages, &login(password.as_ref(), channel_binding), "connecting").await;
    drop(messages);
    serve.await.unwrap();
    result
}

async fn read_frame(server: &mut DuplexStream, has_tag: bool) -> Vec<u8> {
    if has_tag {
        assert_eq!(server.read_u8().await.unwrap(), b'p');
    }
    let length = server.read_u32().await.unwrap();
    let mut body = vec![0; length as usize - 4];
    server.read_exact(&mut body).await.unwrap();
    body
}

fn failure(result: Result<BackendKey>) -> Error {
    result.err().expect("the handshake should fail")
}

#[tokio::test]
async fn trust_needs_no_password() {
    let key = play(None, ChannelBinding::Prefer, vec![(welcome(), None)]).await.unwrap();
    assert!(key == BackendKey { pid: 7, secret: 9 });
}

#[tokio::test]
async fn a_cleartext_password_is_sent_as_it_is() {
    let script = vec![(authentication(3, b""), Some(b"word\0".to_vec())), (welcome(), None)];
    play(Some("word"), ChannelBinding::Prefer, script).await.unwrap();
}

#[tokio::test]
async fn an_md5_password_is_hashed_with_user_and_salt() {
    let hash = md5_hash(b"me", b"word", [1, 2, 3, 4]) + "\0";
    let script = vec![(authentication(5, &[1, 2, 3, 4]), Some(hash.into_bytes())), (welcome(), None)];
    play(Some("word"), ChannelBinding::Disable, script).await.unwrap();
}

#[tokio::test]
async fn a_wanted_password_that_is_not_there_halts_with_a_hint() {
    let error = failure(play(None, ChannelBinding::Prefer, vec![(authentication(3, b""), None)]).await);
    assert_eq!(error.kind(), Kind::Halt);
    assert!(error.hint_text().unwrap().contains("PGPASSWORD"));
}

#[tokio::test]
async fn required_channel_binding_refuses_every_other_authentication_before_a_password_is_sent() {
    for says in [
        welcome(),
        authentication(3, b""),
        authentication(5, &[1, 2, 3, 4]),
        authentication(10, b"SCRAM-SHA-256\0\0"),
    ] {
        let error = failure(play(Some("word"), ChannelBinding::Require, vec![(says, None)]).await);
        assert!(error.to_string().contains("channel binding is required"), "{error:?}");
    }
}

#[tokio::test]
async fn a_scram_exchange_with_a_foreign_nonce_or_an_unknown_mechanism_fails() {
    let (client, mut server) = duplex(64 << 10);
    let serve = tokio::spawn(async move {
        read_frame(&mut server, false).await;
        server.write_all(&authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")).await.unwrap();
        let first = read_frame(&mut server, true).await;
        assert!(first.starts_with(b"SCRAM-SHA-256\0"), "without TLS there is nothing to bind to");
        assert!(first[18..].starts_with(b"n,,n=,r="));
        server.write_all(&authentication(11, b"r=foreign,s=c2FsdA==,i=4096")).await.unwrap();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "no proof is sent");
    });
    let password = SecretString::from("word");
    let mut messages = Messages::new(client);
    let login = login(Some(&password), ChannelBinding::Prefer);
    let error = failure(log_in(&mut messages, &login, "connecting").await);
    drop(messages);
    serve.await.unwrap();
    assert_eq!(error.kind(), Kind::Halt);
    assert!(error.to_string().contains("invalid nonce"), "{error:?}");

    let script = vec![(authentication(10, b"OAUTHBEARER\0\0"), None)];
    let error = failure(play(Some("word"), ChannelBinding::Prefer, script).await);
    assert!(error.to_string().contains("no SASL mechanism"), "{error:?}");
}

#[tokio::test]
async fn a_tls_session_binds_scram_when_the_server_offers_it_and_says_so_when_not() {
    for (offer, expected) in [
        (&b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"[..], &b"SCRAM-SHA-256-PLUS\0"[..]),
        (b"SCRAM-SHA-256\0\0", b"SCRAM-SHA-256\0"),
    ] {
        let (client, mut server) = duplex(64 << 10);
        let serve = tokio::spawn(async move {
            read_frame(&mut server, false).await;
            server.write_all(&authentication(10, offer)).await.unwrap();
            let first = read_frame(&mut server, true).await;
            let flag = if expected.len() > 14 { &b"p=tls-server-end-point,,"[..] } else { b"y,," };
            assert!(first.starts_with(expected) && first[expected.len() + 4..].starts_with(flag));
        });
        let password = SecretString::from("word");
        let login = Login { binding: Some(vec![1; 32]), ..login(Some(&password), ChannelBinding::Prefer) };
        let error = failure(log_in(&mut Messages::new(client), &login, "connecting").await);
        assert_eq!(error.kind(), Kind::Transient, "the server hung up");
        serve.await.unwrap();
    }
}

#[tokio::test]
async fn the_servers_error_keeps_message_and_sqlstate() {
    let body = b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0";
    let error = failure(play(None, ChannelBinding::Prefer, vec![(message(b'E', body), None)]).await);
    assert_eq!(error.kind(), Kind::Transient);
    assert_eq!(sqlstate::sqlstate(&error), Some("53300"));
    assert!(error.to_string().contains("too many clients"), "{error:?}");
}

#[tokio::test]
async fn oversized_malformed_and_unexpected_messages_halt() {
    for (says, expected) in [
        (b"R\x7f\xff\xff\xff".to_vec(), "more than 1048576"),
        (b"R\0\0\0\x03".to_vec(), "malformed"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "bytes, more than"),
        (message(b'?', b""), "malformed"),
        (message(b'Z', b"I"), "out of turn"),
        (message(b'W', b"\0\0\0"), "out of turn"),
        (authentication(7, b""), "GSSAPI"),
    ] {
        let error = failure(play(None, ChannelBinding::Prefer, vec![(says, None)]).await);
        assert_eq!(error.kind(), Kind::Halt, "{error:?}");
        assert!(error.to_string().contains(expected), "{error:?}");
    }
}

#[tokio::test]
async fn bytes_after_copy_both_stay_in_the_buffer() {
    let (client, mut server) = duplex(64 << 10);
    let stream = [message(b'N', b"SNOTICE\0\0"), message(b'W', b"\0\0\0"), b"d\0\0".to_vec()].concat();
    server.write_all(&stream[..9]).await.unwrap();
    let mut messages = Messages::new(client);
    let (reply, _) = tokio::join!(messages.next("starting"), async {
        tokio::task::yield_now().await;
        server.write_all(&stream[9..]).await.unwrap();
    });
    assert!(matches!(reply.unwrap(), Reply::CopyBoth));
    assert_eq!(&messages.buffer[..], b"d\0\0");
}
