//! Of the bytes from the socket: none make the frames, the decoder or the mapper panic, and reads may cut them anywhere.

use std::sync::Arc;

use proptest::prelude::*;
use walcast::Lsn;
use walcast::capture::frame::Frame;
use walcast::decode::{Decoder, message};
use walcast::encode::fold::{ChangeRef, Fold};
use walcast::encode::json_rows::JsonRows;
use walcast::encode::mapper::Mapper;
use walcast::encode::plan::Plan;
use walcast::encode::run::Run;
use walcast::error::Result;

use crate::{MESSAGES, RECORDINGS, cases, cut, frames, wire};

/// Damage to a byte sequence; positions count around its length.
#[derive(Debug, Clone)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Remove(usize, usize),
    Repeat(usize, usize, usize),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let at = any::<usize>;
    let damage = prop_oneof![
        4 => (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, 1 << bit)),
        1 => at().prop_map(Damage::Cut),
        1 => (at(), 1..9usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        2 => (at(), 1..40usize, at()).prop_map(|(from, length, to)| Damage::Repeat(from, length, to)),
    ];
    prop::collection::vec(damage, 1..5)
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let length_now = bytes.len();
        match *damage {
            Damage::Flip(at, mask) => bytes[at % length_now] ^= mask,
            Damage::Cut(at) => bytes.truncate(at % length_now),
            Damage::Remove(at, length) => {
                let at = at % length_now;
                bytes.drain(at..(at + length).min(length_now));
            }
            Damage::Repeat(from, length, to) => {
                let from = from % length_now;
                let copied = bytes[from..(from + length).min(length_now)].to_vec();
                let to = to % length_now;
                bytes.splice(to..to, copied);
            }
        }
    }
    bytes
}

/// Parses, and walks all that was parsed: every value lies in the message, and there are as many as were announced.
fn walk(data: &[u8]) {
    use message::{Message, Old, Tuple, Value};
    let Ok(message) = message::parse(data) else { return };
    let check = |tuple: Tuple<'_>| {
        let values: Vec<Value<'_>> = tuple.values().collect();
        assert_eq!(values.len(), tuple.len());
        for value in values {
            if let Value::Text(bytes) | Value::Binary(bytes) = value {
                assert!(bytes.is_empty() || data.as_ptr_range().contains(&bytes.as_ptr()));
                assert!(bytes.len() < data.len());
            }
        }
    };
    match message {
        Message::Insert { new, .. } => check(new),
        Message::Update { old, new, .. } => {
            old.map(Old::tuple).into_iter().for_each(check);
            check(new);
        }
        Message::Delete { old, .. } => check(old.tuple()),
        _ => {}
    }
}

/// Decodes, maps, renders and folds a whole stream, however it ends, and again with what came before `needed_from` left
/// out.
fn flow(stream: &[u8], plan: &Arc<Plan>) {
    for needed_from in [Lsn::ZERO, Lsn(0x0150_9000)] {
        let mut mapper = Mapper::new(plan.clone(), 400, needed_from);
        flow_through(&mut mapper, stream, plan);
        mapper.take_ended().iter().for_each(|run| read(run, plan));
    }
}

fn flow_through(mapper: &mut Mapper, stream: &[u8], plan: &Arc<Plan>) {
    let mut decoder = Decoder::new();
    let mut take = |frame: Frame<'_>| -> Result<()> {
        if let Some(event) = decoder.decode(frame)? {
            mapper.map(event);
            mapper.take_full().into_iter().chain(mapper.take_whole()).for_each(|run| read(&run, plan));
        }
        Ok(())
    };
    for frame in frames(stream).iter() {
        if frame.and_then(&mut take).is_err() {
            return;
        }
    }
}

/// Everything that a sink would read.
fn read(run: &Run, plan: &Plan) {
    let (rows, mut fold) = (JsonRows::of(run, plan), Fold::new(plan));
    for index in 0..run.all_changes().len() {
        assert!(rows.get(index).is_empty() || rows.get(index).starts_with('['));
    }
    for span in run.spans() {
        assert_eq!(run.changes(span).len(), span.changes.len());
        span.changes.clone().for_each(|index| fold.add(ChangeRef { run, span, index }));
    }
}

#[test]
fn every_proper_prefix_of_a_message_is_an_error() {
    for data in MESSAGES.iter() {
        assert!(message::parse(data).is_ok());
        for length in (0..data.len()).filter(|length| *length < 200 || data.len() - length < 200) {
            assert!(message::parse(&data[..length]).is_err(), "{length} of {}", data.escape_ascii());
        }
        let longer = [&data[..], b"\0"].concat();
        assert!(message::parse(&longer).is_err(), "a byte too many: {}", data.escape_ascii());
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn no_bytes_make_the_decoder_panic(
        tag in prop::sample::select(b"BCORYIUDTM?".to_vec()),
        rest in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        walk(&rest);
        walk(&[&[tag], &rest[..]].concat());
    }

    #[test]
    fn no_damage_to_a_message_makes_the_decoder_panic(
        index in any::<prop::sample::Index>(), damages in damage(),
    ) {
        let data = damaged(&MESSAGES[index.index(MESSAGES.len())], &damages);
        walk(&data);
    }

    #[test]
    fn no_bytes_make_the_frames_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let run = frames(&bytes);
        prop_assert!(run.iter().count() <= bytes.len() / 5);
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn no_damage_to_a_stream_makes_decoder_or_mapper_panic(
        index in any::<prop::sample::Index>(), damages in damage(),
    ) {
        let recording = index.get(&RECORDINGS[..]);
        flow(&damaged(&recording.stream, &damages), &recording.plan);
    }

    /// The framing stays whole here, so that the damage reaches the stages behind it.
    #[test]
    fn no_damage_inside_messages_makes_decoder_or_mapper_panic(
        index in any::<prop::sample::Index>(), which in any::<prop::sample::Index>(), damages in damage(),
    ) {
        let recording = index.get(&RECORDINGS[..]);
        let mut stream = Vec::new();
        let run = frames(&recording.stream);
        let victim = which.index(run.iter().count());
        for (position, frame) in run.iter().enumerate() {
            if let Frame::XLogData { wal_start, data } = frame.unwrap() {
                let data = if position == victim { damaged(data, &damages) } else { data.to_vec() };
                wire::xlog(&mut stream, wal_start, &data);
            }
        }
        flow(&stream, &recording.plan);
    }

    #[test]
    fn frames_are_the_same_however_the_reads_cut_them(
        index in any::<prop::sample::Index>(), reads in prop::collection::vec(1..400usize, 1..20),
    ) {
        let recording = index.get(&RECORDINGS[..]);
        let expected: Vec<String> =
            frames(&recording.stream).iter().map(|frame| format!("{:?}", frame.unwrap())).collect();
        let mut found = Vec::new();
        for run in cut(&recording.stream, &reads) {
            found.extend(run.iter().map(|frame| format!("{:?}", frame.unwrap())));
        }
        prop_assert_eq!(found, expected);
    }
}
