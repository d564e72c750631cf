//! The stream against hand-written server bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::capture::frame::Frame;

const OPTIONS: StreamOptions = StreamOptions {
    status_interval: Duration::from_millis(20),
    keepalive_interval: Duration::from_secs(3600),
    message_bytes_max: 1000,
    pace: PaceOptions::TCP,
};

fn xlog(data: &[u8]) -> Vec<u8> {
    let mut message = vec![b'd'];
    message.extend((4 + 25 + data.len() as u32).to_be_bytes());
    message.push(b'w');
    message.extend([0; 24]);
    message.extend(data);
    message
}

fn keepalive(wal_end: u64, reply_requested: bool) -> Vec<u8> {
    let mut message = vec![b'd'];
    message.extend((4 + 18u32).to_be_bytes());
    message.push(b'k');
    message.extend(wal_end.to_be_bytes());
    message.extend([0; 8]);
    message.push(u8::from(reply_requested));
    message
}

/// The next message that walcast sends: the flushed position of a status update, or `None` for CopyDone.
async fn next_status(server: &mut DuplexStream) -> Option<u64> {
    let mut header = [0; 5];
    server.read_exact(&mut header).await.unwrap();
    let mut body = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4];
    server.read_exact(&mut body).await.unwrap();
    match header[0] {
        b'd' => {
            assert_eq!((body[0], body.len()), (b'r', 34));
            Some(u64::from_be_bytes(body[9..17].try_into().unwrap()))
        }
        b'c' => None,
        tag => panic!("unexpected message {tag}"),
    }
}

fn stream(socket: DuplexStream, options: StreamOptions) -> (Stream<DuplexStream>, Arc<AtomicU64>) {
    let durable = Arc::new(AtomicU64::new(0));
    let confirmable = durable.clone();
    let stream =
        Stream::new(socket, BytesMut::new(), options, move || Lsn(confirmable.load(Ordering::Relaxed)));
    (stream, durable)
}

fn data(run: &FrameRun) -> Vec<Vec<u8>> {
    run.iter()
        .map(|frame| match frame.unwrap() {
            Frame::XLogData { data, .. } => data.to_vec(),
            frame => panic!("unexpected {frame:?}"),
        })
        .collect()
}

#[tokio::test]
async fn messages_are_handed_on_whole_however_the_network_cuts_them() {
    let (client, mut server) = duplex(1 << 20);
    let (mut stream, _) = stream(client, OPTIONS);
    let (runs, mut received) = mpsc::channel(4);
    let bytes = [xlog(b"one"), xlog(b"two"), xlog(b"three")].concat();
    let serve = async {
        let mut got = Vec::new();
        for piece in bytes.chunks(7) {
            server.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        while got.len() < 3 {
            got.extend(data(&received.recv().await.unwrap()));
        }
        got
    };
    let stop = std::future::pending();
    let got = tokio::select! {
        got = serve => got,
        ended = stream.run(&runs, stop) => panic!("the stream ended: {ended:?}"),
    };
    assert_eq!(got, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
}

#[tokio::test]
async fn what_was_read_before_the_stream_began_comes_first() {
    let (client, mut server) = duplex(1 << 20);
    let first = xlog(b"first");
    let mut stream = Stream::new(client, BytesMut::from(&first[..9]), OPTIONS, || Lsn::ZERO);
    let (runs, mut received) = mpsc::channel(4);
    server.write_all(&first[9..]).await.unwrap();
    let got = tokio::select! {
        run = received.recv() => data(&run.unwrap()),
        ended = stream.run(&runs, std::future::pending()) => panic!("the stream ended: {ended:?}"),
    };
    assert_eq!(got, [b"first".to_vec()]);
}

#[tokio::test]
async fn a_server_that_asks_is_answered_before_the_interval_is_over() {
    let (client, mut server) = duplex(1 << 20);
    let options = StreamOptions { status_interval: Duration::from_secs(3600), ..OPTIONS };
    let (mut stream, durable) = stream(client, options);
    let (runs, _received) = mpsc::channel(4);
    let serve = async {
        assert_eq!(next_status(&mut server).await, Some(0));
        durable.store(42, Ordering::Relaxed);
        server.write_all(&keepalive(50, true)).await.unwrap();
        assert_eq!(
            next_status(&mut server).await,
            Some(42),
            "what is durable, never the server's own position"
        );
    };
    tokio::select! {
        () = serve => {}
        ended = stream.run(&runs, std::future::pending()) => panic!("the stream ended: {ended:?}"),
    }
}

#[tokio::test]
async fn status_updates_go_on_while_nobody_takes_what_was_read() {
    let (client, mut server) = duplex(1 << 20);
    let (mut stream, durable) = stream(client, OPTIONS);
    let (runs, _held) = mpsc::channel(1);
    let serve = async {
        for _ in 0..3 {
            server.write_all(&xlog(b"more")).await.unwrap();
            next_status(&mut server).await;
        }
        durable.store(7, Ordering::Relaxed);
        while next_status(&mut server).await != Some(7) {}
    };
    tokio::select! {
        () = serve => {}
        ended = stream.run(&runs, std::future::pending()) => panic!("the stream ended: {ended:?}"),
    }
}

#[tokio::test]
async fn a_confirmed_position_never_goes_back() {
    let (client, mut server) = duplex(1 << 20);
    let (mut stream, durable) = stream(client, OPTIONS);
    durable.store(9, Ordering::Relaxed);
    let serve = async {
        assert_eq!(next_status(&mut server).await, Some(9));
        durable.store(3, Ordering::Relaxed);
        assert_eq!(next_status(&mut server).await, Some(9));
    };
    tokio::select! {
        () = serve => {}
        ended = stream.idle_until(std::future::pending()) => panic!("the stream ended: {ended:?}"),
    }
}

#[tokio::test]
async fn the_end_confirms_first_and_then_waits_for_the_server() {
    let (client, mut server) = duplex(1 << 20);
    let (stream, durable) = stream(client, OPTIONS);
    durable.store(11, Ordering::Relaxed);
    let serve = async {
        assert_eq!(next_status(&mut server).await, Some(11));
        assert_eq!(next_status(&mut server).await, None);
        server.write_all(&xlog(b"still under way")).await.unwrap();
        server.write_all(b"c\0\0\0\x04C\0\0\0\x0bCOPY 0\0Z\0\0\0\x05I").await.unwrap();
    };
    let (ended, ()) = tokio::join!(stream.finish(Duration::from_secs(10)), serve);
    ended.unwrap();
}

#[tokio::test]
async fn a_message_above_the_limit_halts_before_it_is_buffered() {
    let (client, mut server) = duplex(1 << 20);
    let (mut stream, _) = stream(client, OPTIONS);
    let (runs, _received) = mpsc::channel(4);
    let huge = xlog(&[0; 2000]);
    server.write_all(&huge[..100]).await.unwrap();
    let error = stream.run(&runs, std::future::pending()).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("max_message_bytes"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_goes_away_is_a_transient_error() {
    let (client, server) = duplex(1 << 20);
    let (mut stream, _) = stream(client, OPTIONS);
    let (runs, _received) = mpsc::channel(4);
    drop(server);
    let error = stream.run(&runs, std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::Transient);
}
